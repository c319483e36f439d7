"""`spatialboost probe NAME`: measure an encoder, or compare a boosted one with its base; one command for each probe."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperGroup

from spatialboost.encoders.device import to_device
from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.probes.options import CommonOptions, fit_to_patches, parse_layer, parse_size
from spatialboost.probes.protocol import PROBES, Probe, find_probe
from spatialboost.probes.published import PROTOCOLS, from_protocol

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

    image_size: Annotated[str, "Pixels to which images are resized: 224, or height and width such as 480x640."] = "224"
    layer: Annotated[
        list[str], "Block after which tokens are read; -1 is the last. Several are joined. Or quarters."
    ] = field(default_factory=lambda: ["-1"])
    batch_size: Annotated[int, "Images that go through the encoder at a time."] = CommonOptions.batch_size
    seeds: Annotated[int, "Number of draws of the training items; each is one run."] = len(CommonOptions.seeds)
    subset: Annotated[float, "Share of the training items that a draw takes."] = CommonOptions.subset
    num_panels: Annotated[int, "Test items in the picture."] = CommonOptions.num_panels
    out: Annotated[Path | None, "Folder for the JSON and the picture."] = None

    def common(self) -> dict[str, Any]:
        """The fields of `CommonOptions` with these values."""
        return {
            "image_size": parse_size(self.image_size),
            "layer": parse_layer(self.layer),
            "batch_size": self.batch_size,
            "seeds": tuple(range(self.seeds)),
            "subset": self.subset,
            "num_panels": self.num_panels,
            "progress": True,
        }


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
    if probe.name in PROTOCOLS:
        text = f"Published protocol whose values are taken: {', '.join(PROTOCOLS[probe.name])}."
        parameters.append(_keyword("protocol", Annotated[str | None, typer.Option(help=text)], None))
    parameters.append(_keyword("context", typer.Context))

    def command(context: typer.Context, **values: Any) -> None:
        given = {name for name in values if _is_given(context, name)}
        _measure_and_report(probe, values, given)

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
    typer.echo(f"wrote {page.file}: results: {page.results}, other JSON files passed over: {len(page.passed_over)}")


def _alone(name: str, function: Any, **settings: Any) -> Any:
    """One function as a command of its own."""
    group = typer.Typer(add_completion=False)
    group.command(name, **settings)(function)
    return typer.main.get_command(group)


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line, and not at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


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
        name = each.name.replace("_", "-")
        # a probe's option can also be switched off, since a protocol may switch it on
        flag = [f"--{name}/--no-{name}" if issubclass(group, Probe) else f"--{name}"] if kind is bool else []
        option: Any = Annotated[kind, typer.Option(*flag, help=text)]
        yield _keyword(each.name, option, inspect.Parameter.empty if default is MISSING else default)


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _measure_and_report(probe: type[Probe], values: Mapping[str, Any], given: Set[str]) -> None:
    from spatialboost.encoders import image_preparation, open_encoder
    from spatialboost.probes.run import run_probe

    values = {name: _expand(value) for name, value in values.items()}
    asked, run = _fill(EncoderOptions, values), _fill(RunOptions, values)
    _check_out(probe.name, run.out)
    mine, options = _probe_and_options(probe, values, run.common(), given)
    train, test = _fill(probe.splits, values).open()  # before the encoder is opened, which takes longer
    model = open_encoder(
        asked.encoder,
        delta=asked.delta,
        weights=asked.weights,
        pretrained=not asked.random_weights,
        image_size=None if options.protocol else options.image_size,
    )
    if options.protocol:  # its image size is rounded to whole patches, so the encoder is opened first
        open_encoder(model, image_size=fit_to_patches(options.image_size, image_preparation(model).patch))
    result = run_probe(mine, _named(to_device(model, asked.device)), train, test, options)
    _report(_with_options(result, _fill(probe.splits, values), values), run.out)


def _with_options(result: ProbeResult, splits: Any, values: Mapping[str, Any]) -> ProbeResult:
    """The result with all options of the command, and with the names of the data as they were given."""
    from spatialboost.probes.run import short_name

    given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    named = [short_name(given[each.name]) for each in fields(splits) if isinstance(given.get(each.name), str)]
    settings = {**result.settings, "data": ", ".join(named) or result.settings["data"], "options": given}
    return replace(result, settings=settings)


def _probe_and_options(
    probe: type[Probe], values: Mapping[str, Any], common: Mapping[str, Any], given: Set[str]
) -> tuple[Probe, CommonOptions]:
    """The probe and the common options: what is given, else the protocol's values, else the defaults."""
    if values.get("protocol") is None:
        return _fill(probe, values), CommonOptions(**common)
    own = {each.name for each in fields(probe)}  # type: ignore[arg-type]  # a probe is a dataclass
    chosen = {name: value for name, value in {**values, **common}.items() if name in given and name in {*own, *common}}
    return from_protocol(probe.name, values["protocol"], **chosen, progress=True)


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
