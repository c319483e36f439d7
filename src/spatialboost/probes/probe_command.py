"""`spatialboost probe NAME`: measure an encoder, or compare a boosted one with its base; one command for each probe."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperGroup

from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.protocol import PROBES, Probe, find_probe

if TYPE_CHECKING:
    from torch import nn

    from spatialboost.probes.result import ProbeResult


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder is measured, and on which device."""

    encoder: Annotated[
        str,
        "timm:NAME, hf:ID, open_clip:MODEL/PRETRAINED, torchvision:NAME, hub:FOLDER:ENTRY, run.yaml, or a delta.",
    ]
    delta: Annotated[str | None, "A delta to load onto the encoder."] = None
    weights: Annotated[Path | None, "safetensors file for the encoder, instead of its library's own weights."] = None
    random_weights: Annotated[bool, "Use random weights for the encoder, from seed 0."] = False
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps ..."] = "auto"


@dataclass(frozen=True)
class RunOptions:
    """`CommonOptions` in the form of the command line, and the folder for the result."""

    image_size: Annotated[int, "Side in pixels to which images are resized."] = 224
    layer: Annotated[list[int], "Block after which tokens are read; -1 is the last. Several are joined."] = field(
        default_factory=lambda: [-1]
    )
    batch_size: Annotated[int, "Images that go through the encoder at a time."] = CommonOptions.batch_size
    seeds: Annotated[int, "Number of draws of the training items; each is one run."] = len(CommonOptions.seeds)
    subset: Annotated[float, "Share of the training items that a draw takes."] = CommonOptions.subset
    num_panels: Annotated[int, "Test items in the picture."] = CommonOptions.num_panels
    out: Annotated[Path | None, "Folder for the JSON and the picture."] = None

    def common(self) -> CommonOptions:
        """The options as `run_probe` takes them."""
        layer = self.layer[0] if len(self.layer) == 1 else tuple(self.layer)
        return CommonOptions(
            self.image_size, layer, self.batch_size, range(self.seeds), self.subset, self.num_panels, progress=True
        )


REPORT = "report"  # the command beside those of the probes


class ProbeCommands(TyperGroup):
    """The commands of all probes in the registry, each made when it is needed, and `report`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]  # a group only reads its commands

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names; raises an error with the most similar name if there is none."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown("probe", args[0], self.commands)
        return super().resolve_command(ctx, args)


class _Commands(Mapping[str, Any]):
    def __len__(self) -> int:
        return len(PROBES) + 1

    def __iter__(self) -> Iterator[str]:
        return iter((*PROBES, REPORT))

    def __getitem__(self, name: str) -> Any:
        if name == REPORT:
            return _alone(REPORT, report)
        if name not in PROBES:
            raise KeyError(name)
        return make_command(find_probe(name))


app = typer.Typer(
    cls=ProbeCommands, help="Measure frozen encoders: base against boosted in one run.", no_args_is_help=True
)


def make_command(probe: type[Probe]) -> Any:
    """The command of a probe: its own options, how its splits are given, and the options that all probes have."""
    without = set() if probe.draws else {"seeds", "subset"}
    without |= {"num_panels"} if probe.panel is Probe.panel else set()
    parameters = [
        parameter
        for group in (EncoderOptions, probe.splits, probe, RunOptions)
        for parameter in _parameters(group)
        if parameter.name not in without
    ]

    def command(**values: Any) -> None:
        _measure_and_report(probe, values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return _alone(probe.name, command, help=inspect.getdoc(probe).splitlines()[0])  # type: ignore[union-attr]


def report(
    folders: Annotated[list[Path], typer.Argument(help="JSON files of probes, or folders in which they are.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Make one HTML page of the results of many probes."""
    from spatialboost.probes.report_page import write_report

    page = write_report([user_path(folder) for folder in folders], user_path(out))
    typer.echo(f"wrote {page.file}: {page.results} results, {len(page.passed_over)} JSON files passed over")


def _alone(name: str, function: Any, **settings: Any) -> Any:
    """One function as a command of its own."""
    group = typer.Typer(add_completion=False)
    group.command(name, **settings)(function)
    return typer.main.get_command(group)


def _parameters(group: type) -> Iterator[inspect.Parameter]:
    """A parameter for each field whose annotation contains a help text, as in ``Annotated[int, "How many."]``."""
    annotations: dict[str, Any] = {}
    for ancestor in reversed(group.__mro__):
        if is_dataclass(ancestor):
            annotations |= inspect.get_annotations(ancestor, eval_str=True)
    for each in fields(group):
        if get_origin(annotations[each.name]) is not Annotated:
            continue
        kind, text = get_args(annotations[each.name])
        default = each.default if each.default_factory is MISSING else each.default_factory()
        flag = [f"--{each.name.replace('_', '-')}"] if kind is bool else []  # without a --no-... beside it
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=Annotated[kind, typer.Option(*flag, help=text)],
        )


def _measure_and_report(probe: type[Probe], values: Mapping[str, Any]) -> None:
    from spatialboost.encoders import open_encoder
    from spatialboost.probes.run import run_probe

    values = {name: _expand(value) for name, value in values.items()}
    asked, run = _fill(EncoderOptions, values), _fill(RunOptions, values)
    _check_out(probe.name, run.out)
    mine, options = _fill(probe, values), run.common()
    train, test = _fill(probe.splits, values).open()  # before the encoder is opened, which takes longer
    model = open_encoder(
        asked.encoder,
        delta=asked.delta,
        weights=asked.weights,
        pretrained=not asked.random_weights,
        image_size=options.image_size,
    )
    result = run_probe(mine, _named(to_device(model, asked.device)), train, test, options)
    _report(_with_options(result, _fill(probe.splits, values), values), run.out)


def _with_options(result: ProbeResult, splits: Any, values: Mapping[str, Any]) -> ProbeResult:
    """The result with all options of the command, and with the names of the data as they were given."""
    from spatialboost.probes.run import short_name

    given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    named = [short_name(given[each.name]) for each in fields(splits) if isinstance(given.get(each.name), str)]
    settings = {**result.settings, "data": ", ".join(named), "options": given}
    return replace(result, settings=settings)


def _expand(value: Any) -> Any:
    """A path, or an option that may be one, with ``~`` for the home folder."""
    if isinstance(value, Path):
        return user_path(value)
    return str(user_path(value)) if isinstance(value, str) and value.startswith("~") else value


def _check_out(name: str, out: Path | None) -> None:
    """Raise an error now if the result could not be written after the measurement."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise SpatialBoostError(f"{out} cannot be written to, so the result of probe {name} would be lost")


def _fill(group: type, values: Mapping[str, Any]) -> Any:
    return group(**{each.name: values[each.name] for each in fields(group) if each.name in values})


def to_device(model: nn.Module, device: str) -> nn.Module:
    """Put the model on a device: ``"auto"``, or a name of torch.

    Raises:
        SpatialBoostError: there is no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise SpatialBoostError(f"device is {device!r}: {str(error).splitlines()[0]}") from error


def _named(model: nn.Module) -> nn.Module | dict[str, nn.Module]:
    """A boosted model as it is, another model in a dictionary with a name."""
    from spatialboost.boosting.channel import boosted_layers

    return model if boosted_layers(model) else {"encoder": model}


def _report(result: ProbeResult, out: Path | None) -> None:
    from rich.console import Console

    console = Console()
    console.print(result)
    for path in [] if out is None else result.save(out):
        console.print(f"wrote {path}", markup=False)
