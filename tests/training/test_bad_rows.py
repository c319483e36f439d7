"""One bad row does not end a training: it is skipped, counted and named. A mistake in the program does end it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.teachers.language import ChatDataset
from spatialboost.teachers.language.chats import ShuffledAnswers
from spatialboost.training.config import load_config
from spatialboost.training.data import RowDataset
from spatialboost.training.run import train
from training_rows import build, make_rows

TURN = {"role": "user", "content": "<image>\nHow deep?"}
ANSWER = {"role": "assistant", "content": "The depth is 1.000 meters."}

# What is wrong with a row -> the reason that is given
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": None}, "messages are None"),
    "empty messages": ({"messages": []}, "messages are \\[\\]"),
    "messages are a text": ({"messages": "How deep?"}, "messages are 'How deep"),
    "a message is null": ({"messages": [TURN, None]}, "message 1 is None"),
    "a message without a role": ({"messages": [TURN, {"content": "x"}]}, "message 1 is .*`role`"),
    "content is null": ({"messages": [TURN, {**ANSWER, "content": None}]}, "content of message 1 is None"),
    "content is a number": ({"messages": [TURN, {**ANSWER, "content": 2.0}]}, "content of message 1 is 2.0"),
    "a part is unknown": ({"messages": [{**TURN, "content": [{"type": "video"}]}, ANSWER]}, "part of message 0"),
    "a part without text": ({"messages": [{**TURN, "content": [{"type": "text", "text": None}]}, ANSWER]}, "part of"),
    "the answer comes first": ({"messages": [ANSWER, TURN]}, "roles of its messages are assistant, user"),
    "two questions": ({"messages": [TURN, TURN, ANSWER]}, "roles of its messages are user, user"),
    "roles of another format": ({"messages": [{**TURN, "role": "human"}, {**ANSWER, "role": "gpt"}]}, "human, gpt"),
    "only a question": ({"messages": [TURN]}, "no assistant message"),
    "no image mark": ({"messages": [{**TURN, "content": "How deep?"}, ANSWER]}, "0 <image> marks"),
    "two image marks": ({"messages": [{**TURN, "content": "<image><image>How deep?"}, ANSWER]}, "2 <image> marks"),
    "no images": ({"images": None}, "`images` is None"),
    "images are a text": ({"images": "x.png"}, "`images` is 'x.png'"),
    "an image is null": ({"images": [None]}, "an image is None"),
    "an image without bytes": ({"images": [{"bytes": None, "path": "x.png"}]}, "no bytes"),
    "an image that is none": ({"images": [{"bytes": b"GIF89a", "path": None}]}, "bytes"),
    "meta is a list": ({"meta": "[1]"}, "`meta` is \\[1\\]"),
    "meta is no JSON": ({"meta": "{"}, "`meta` is not JSON"),
    "meta is deep": ({"meta": "[" * 100_000}, "`meta` is not JSON"),
    "meta is a number": ({"meta": 3}, "`meta` is 3"),
    "a turn without a kind": ({"meta": '{"turns": [{}, {}]}'}, "`meta` is"),
    "turns are a number": ({"meta": '{"turns": 3}'}, "`meta` is"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_skipped_counted_and_named(case):
    rows = make_rows(4)
    _, _, dataset = build(rows)
    change, reason = BAD[case]
    rows[1] = {**rows[1], **change}
    taken = {int(dataset[i]["row"]) for i in range(4)}
    assert taken == {0, 2, 3} and list(dataset.skipped) == [1]
    with pytest.raises(SpatialBoostError, match=reason):
        dataset.read(1)
    assert [number for number, _ in dataset.usable()] == [0, 2, 3]
    shuffled = ChatDataset(rows, dataset.images, dataset.make_example.tokenizer, shuffle_answers=True)
    assert [number for number, _ in shuffled.usable()] == [0, 2, 3]  # and it lends no answers


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), AttributeError("x"), RuntimeError("x"), IndexError(1)]
)
def test_a_mistake_in_the_program_ends_the_training(error):
    rows = make_rows(4)
    _, _, dataset = build(rows)

    def broken(number, row):
        raise error

    mine = RowDataset(rows, dataset.images, broken)
    for call in (lambda: mine[0], lambda: next(mine.usable())):
        with pytest.raises(type(error)):
            call()
    assert not mine.skipped
    chat = ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}], ["depth"])
    with pytest.raises(type(error)):
        ShuffledAnswers(range(4), seed=0)(0, chat, lambda number: broken(number, {}))


def write(rows: list[dict[str, Any]], folder: Path, **columns: pa.Array) -> Path:
    """Parquet as other software may write it: nothing is checked."""
    names = {"images": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    names["messages"] = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    table = {name: pa.array([row[name] for row in rows], kind) for name, kind in names.items()}
    folder.mkdir(parents=True)
    pq.write_table(pa.table({**table, **columns}), folder / "part-00000.parquet")
    return folder


def undecodable(texts: list[str], bad: int) -> pa.Array:
    """Texts of which one is no UTF-8."""
    data = [text.encode() for text in texts]
    data[bad] = b"\xff\xfe"
    return pa.array(data, pa.binary()).view(pa.string())


def test_all_stages_are_trained_with_bad_rows(tmp_path):
    rows = make_rows(16)
    for number, change in enumerate(
        [{"messages": None}, {"messages": []}, {"messages": [TURN, {**ANSWER, "content": None}]}, {"images": None}]
    ):
        rows[number] = {**rows[number], **change}
    metas = [json.dumps({"turns": [{"kind": "depth"}, {"kind": "closer"}]})] * 16
    metas[4], metas[14] = "[1]", "null"
    others = undecodable(["x"] * 16, 6)
    folder = write(rows, tmp_path / "data", meta=undecodable(metas, 5), other=others)
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 2, "num_classes": 0}
    stage = {"steps": 4, "batch_size": 4, "save_every": 0}
    config = {
        "encoder": {"name": "VisionTransformer", "kwargs": shape, "mean": [0.5] * 3, "std": [0.5] * 3},
        "teacher": {"llm": {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}}},
        "data": {"folders": [str(folder)], "image_size": 32, "held_out": 4},
        **{name: stage for name in ("stage1", "stage2")},
        "stage3": {**stage, "require_answers": False},
        "device": "cpu",
        "out": str(tmp_path / "out"),
    }
    result = train(load_config(config))
    for record in result.stages.values():
        assert set(record["skipped"]) == {0, 1, 2, 3, 4, 5}  # an undecodable column that is not read does not matter
    assert "`meta` is [1]" in result.stages["stage1"]["skipped"][4]


def test_files_that_disappear_or_are_cut_while_rows_are_read(tmp_path):
    rows = make_rows(16)
    for number in (12, 13):  # images in files of their own, of which one is not there
        file = tmp_path / f"{number}.png"
        file.write_bytes(rows[number]["images"][0]["bytes"])
        rows[number] = {**rows[number], "images": [{"bytes": None, "path": str(file)}]}
    file.unlink()
    parts = [write(rows[at : at + 4], tmp_path / str(at)) / "part-00000.parquet" for at in range(0, 16, 4)]
    opened = open_rows([part.parent for part in parts])
    _, tokenizer, small = build(rows[:12])
    dataset = ChatDataset(opened, small.images, tokenizer)
    assert int(dataset[5]["row"]) == 5
    dataset[0]  # another row group is in memory now
    parts[1].unlink()
    content = parts[2].read_bytes()
    parts[2].write_bytes(content[: len(content) // 2])
    assert {int(dataset[place]["row"]) for place in range(16)} == {0, 1, 2, 3, 12, 14, 15}
    reasons = dataset.skipped
    assert sorted(reasons) == [*range(4, 12), 13]
    for number, place in {4: parts[1], 8: parts[2], 13: file}.items():
        assert str(place) in reasons[number]


def test_bad_maps_of_the_pixel_teacher(tmp_path):
    from spatialboost.teachers.pixel.targets import PixelTargets

    depth = np.full((4, 4), 2000, np.uint16)
    good = {"images": [depth], "depths": [depth], "labels": [np.ones((4, 4), np.uint8)]}
    good["meta"] = '{"objects": [{"description": "red box"}]}'
    targets = PixelTargets((2, 2), depth=True, classes=["box"])
    assert targets(0, good)["depth"].unique().tolist() == [pytest.approx(2.0)]
    for change in (
        {"depths": None}, {"depths": 3}, {"depths": [None]}, {"depths": [{"bytes": b"\x89PNG\r\n\x1a\n"}]},
        {"depths": [depth * 0]}, {"depths": [depth * 0 + 65535]}, {"depths": [depth.astype(float)]}, {"labels": []},
        {"labels": [np.full((4, 4), 999)]}, {"labels": [np.full((4, 4), -1)]}, {"meta": "[]"}, {"images": None},
    ):  # fmt: skip
        with pytest.raises(SpatialBoostError):
            targets(0, {**good, **change})
