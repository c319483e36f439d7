from __future__ import annotations

import json
import os
import socket
import sqlite3
import struct
import sys
import time
from pathlib import Path

import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.training import StageConfig, trackers
from spatialboost.training.config import load_config
from spatialboost.training.fit import fit
from spatialboost.training.trackers import Trackers, check_trackers, public_config

CONFIG = public_config(
    {"encoder": {"weights": "/home/someone/vit.safetensors"}, "seed": 7, "hub_token": "hf_abcdefghijk"}
)


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(3, 1)

    def forward(self, x, y):
        return {"loss": (self.encoder(x)[:, 0] - y).square().mean()}


def train(out: Path, name: str, stages=("stage1", "stage2")) -> dict[str, list[dict]]:
    """Two stages, as of one run, with one tracker; returns the history of each."""
    found = {}
    for stage in stages:
        objective = Line()
        data = [{"x": torch.ones(3), "y": torch.tensor(1.0)} for _ in range(8)]
        groups = [{"params": list(objective.parameters()), "lr": 0.01}]
        settings = StageConfig(steps=4, batch_size=4, log_every=2, save_every=0)
        found[stage] = fit(
            objective,
            data,
            groups,
            settings,
            folder=out / stage,
            device="cpu",
            name=stage,
            trackers=Trackers([name], out, CONFIG),
        ).history
    return found


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection to another machine is an error."""
    connect = socket.socket.connect

    def refuse(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_tensorboard_reads_back_what_the_history_has(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(tmp_path / "run", "tensorboard")
    for stage, entries in history.items():
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / stage)).Reload()
        for key in ("loss", "learning_rate", "steps_per_second", "memory_gb"):
            read = events.Scalars(f"train/{key}")
            assert [e.step for e in read] == [2, 4]
            assert [e.value for e in read] == pytest.approx([e[key] for e in entries], rel=1e-6)
        shown = events.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()
        assert json.loads(shown) == {**CONFIG, "stage": stage}


def test_trackio_keeps_the_history_in_its_own_folder(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import utils

    folder = tmp_path / "trackio"
    folder.mkdir()
    for module in [each for name, each in sys.modules.items() if name.startswith("trackio")]:
        if getattr(module, "TRACKIO_DIR", None) is not None:
            monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    assert folder == utils.TRACKIO_DIR
    history = train(tmp_path / "run", "trackio")
    with sqlite3.connect(folder / "spatialboost.db") as database:
        rows = database.execute("select run_name, metrics from metrics order by id").fetchall()
        configs = database.execute("select run_name, config from configs").fetchall()
    for stage, entries in history.items():
        metrics = [json.loads(text) for name, text in rows if name == f"run-{stage}"]
        losses = [each["train/loss"] for each in metrics if "train/loss" in each]
        assert losses == pytest.approx([e["loss"] for e in entries])
    assert {name for name, _ in configs} == {"run-stage1", "run-stage2"}
    for text in (bytes(config) if isinstance(config, bytes) else config.encode() for _, config in configs):
        assert json.loads(text)["seed"] == 7 and b"someone" not in text and b"hf_" not in text


def wandb_records(file: Path) -> list[bytes]:
    """The records of a file of wandb: blocks of 32 kB with pieces of (checksum, length, kind), as LevelDB's log."""
    content, found, parts, place = file.read_bytes(), [], b"", 7  # a header first
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, last
            found.append(parts)
            parts = b""
    return found


def whole_run(file: Path, record: type) -> list:
    """The records of a run up to its last one; wandb's own process writes the file, perhaps a little later."""
    for _ in range(100):
        found = [record.FromString(data) for data in wandb_records(file)]
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def test_wandb_offline_writes_into_the_folder_of_the_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    for name in [each for each in os.environ if each.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    history = train(tmp_path / "run", "wandb", stages=["stage1"])
    assert wandb.run is None  # so that the next stage is a run of its own
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    losses, text, names = [], "", set()
    for record in whole_run(file, wandb_internal_pb2.Record):
        names |= {record.run.display_name} - {""}
        text += str(record.config)
        for item in record.history.item:
            if "train/loss" in (item.key, "/".join(item.nested_key)):
                losses.append(json.loads(item.value_json))
    assert "vit.safetensors" in text and "someone" not in text and "hf_" not in text
    assert names == {"run-stage1"} and losses == pytest.approx([e["loss"] for e in history["stage1"]])


def test_wandb_without_a_login_is_refused(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in [each for each in os.environ if each.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SpatialBoostError, match=r"no login on this machine: run `wandb login`.*WANDB_MODE=offline"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])


def test_a_tracker_that_is_missing_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    from spatialboost.training.run import train as run

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    config = load_config(
        {
            "encoder": "timm:none_of_this_name",
            "data": {"folders": ["no"]},
            "out": tmp_path / "run",
            "report_to": ["trackio"],
        }
    )
    with pytest.raises(
        SpatialBoostError, match=r'trackio, which is not installed: pip install "spatialboost\[trackers\]"'
    ):
        run(config)


def test_an_unknown_tracker_is_a_wrong_key():
    given = {"encoder": "timm:vit_tiny_patch16_224", "data": {"folders": ["no"]}, "out": "run", "report_to": ["mlflow"]}
    with pytest.raises(SpatialBoostError, match=r"report_to.*'tensorboard', 'wandb' or 'trackio', found 'mlflow'"):
        load_config(given)


def test_the_public_configuration_has_no_path_and_no_secret():
    given = {
        "out": "/srv/team/run",
        "folders": ["/srv/team/rooms", "C:\\data\\frames", "~/own"],
        "llm": {"name": "org/model", "api_key": "abc", "kwargs": {"max_new_tokens": 24, "token": "hf_abcdefghijklmn"}},
        "url": "https://me:word@host/x",
    }
    assert public_config(given) == {
        "out": "run",
        "folders": ["rooms", "frames", "own"],
        "llm": {"name": "org/model", "api_key": "***", "kwargs": {"max_new_tokens": 24, "token": "***"}},
        "url": "https://***@host/x",
    }
