"""Send the log of a run to TensorBoard, Weights & Biases or trackio, through the callbacks of transformers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from spatialboost.errors import SpatialBoostError, redact

Tracker = Literal["tensorboard", "wandb", "trackio"]

PROJECT = "spatialboost"
_SECRET = re.compile(r"(^|_)(token|key|secret|password|passwd|credentials?|authorization)$", re.IGNORECASE)


@dataclass(frozen=True)
class Trackers:
    """Which trackers get the log of a run, and under which name.

    Each stage is a run of its own, named ``RUN-STAGE``. TensorBoard and wandb write into the folder of the run;
    trackio writes into its own folder (``TRACKIO_DIR``).

    Example:
        >>> trackers = Trackers(("tensorboard",), Path("runs/one"), {"seed": 0})
        >>> trackers.run_name("stage3")
        'one-stage3'

    Attributes:
        names: Names of the trackers.
        out: Folder of the run.
        config: What the trackers show as the configuration, see `public_config`.
    """

    names: Sequence[Tracker] = ()
    out: Path = Path()
    config: Mapping[str, Any] = field(default_factory=dict)

    def run_name(self, stage: str) -> str:
        """The name under which a tracker shows a stage."""
        return f"{self.out.resolve().name}-{stage}"

    def callbacks(self, stage: str) -> list[Any]:
        """Callbacks for the Trainer of a stage, one for each tracker."""
        return [_tracked(name, stage, self) for name in self.names]


def check_trackers(names: Sequence[Tracker]) -> None:
    """Check that the trackers can be used, before anything is loaded. Nothing is sent.

    Example:
        >>> check_trackers([])

    Raises:
        SpatialBoostError: A tracker is not installed, or wandb has no login.
    """
    for name in names:
        if find_spec(name) is None:
            raise SpatialBoostError(
                f'report_to names {name}, which is not installed: pip install "spatialboost[trackers]" (or only '
                f"pip install {name}), or leave it out of report_to"
            )
    offline = os.environ.get("WANDB_MODE", "") in ("offline", "disabled", "dryrun")
    if "wandb" not in names or offline or int(os.environ.get("RANK", 0)):  # only the main process sends
        return
    import wandb

    if wandb.run is None and not wandb.login(prompt=False, verify=False):  # nothing is sent
        raise SpatialBoostError(
            "report_to names wandb, which has no login on this machine: run `wandb login`, or set WANDB_API_KEY; with "
            "WANDB_MODE=offline it writes into the folder of the run, and `wandb sync` uploads that later"
        )


def public_config(config: Any) -> Any:
    """A configuration without secrets, and with only the last part of each absolute path.

    Example:
        >>> public_config({"out": "/home/me/runs/one", "llm": {"name": "org/model", "api_key": "abc"}, "steps": 3})
        {'out': 'one', 'llm': {'name': 'org/model', 'api_key': '***'}, 'steps': 3}
    """
    if isinstance(config, Mapping):
        return {
            str(key): "***" if isinstance(value, str) and _SECRET.search(str(key)) else public_config(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [public_config(each) for each in config]
    if isinstance(config, (str, Path)):
        text = redact(str(config))
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(text).is_absolute() or text.startswith("~"):
                return kind(text).name
        return text
    return config


class _Arguments:
    """The arguments of a Trainer as a tracker gets them: with our configuration, and without those of the machine."""

    def __init__(self, arguments: Any, stage: str, trackers: Trackers) -> None:
        self._arguments, self._config = arguments, {**trackers.config, "stage": stage}
        self.run_name, self.project = trackers.run_name(stage), PROJECT

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arguments, name)

    def to_dict(self) -> dict[str, Any]:
        return self._config

    def to_json_string(self) -> str:
        return json.dumps(self._config, indent=2)


def _tracked(name: Tracker, stage: str, trackers: Trackers) -> Any:
    """The callback of transformers for a tracker, which is given `_Arguments`."""
    from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

    base: Any = {"tensorboard": TensorBoardCallback, "wandb": WandbCallback, "trackio": TrackioCallback}[name]

    class Tracked(base):
        own_run: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                self._open()
            super().on_train_begin(_Arguments(args, stage, trackers), state, control, **kwargs)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_log(_Arguments(args, stage, trackers), state, control, **kwargs)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_train_end(args, state, control, **kwargs)
            if self.own_run is not None:
                self.own_run.finish()  # or the next stage would go on in this run

        def _open(self) -> None:
            if name == "tensorboard" and not os.environ.get("TENSORBOARD_LOGGING_DIR"):
                self.logging_dir: Any = str(trackers.out / "tensorboard" / stage)
            if name == "wandb" and self._wandb.run is None:
                folder = None if os.environ.get("WANDB_DIR") else trackers.out
                project = os.environ.get("WANDB_PROJECT", PROJECT)
                self.own_run = self._wandb.init(project=project, name=trackers.run_name(stage), dir=folder)

    return Tracked()
