import json
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost import cli
from spatialboost.errors import SpatialBoostError
from spatialboost.probes import (
    CommonOptions,
    Features,
    find_probe,
    knn_probe,
    read_features,
    read_image_folder,
    run_probe,
)
from spatialboost.probes.encoder_facts import encoder_facts
from spatialboost.probes.protocol import PROBES, Probe
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene

TINY = "vit_tiny_patch16_224"


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> str:
    """A probe of somebody else: one file, and this one line in the registry."""
    monkeypatch.setitem(PROBES, "brightness", "brightness_probe:BrightnessProbe")
    return "brightness"


def test_a_strangers_probe_runs_from_python(brightness: str, tmp_path) -> None:
    boosted = sb.boost(tiny_vit())
    train, test = Rooms(8, size=32), Rooms(3, first=100, size=32)
    result = run_probe(brightness, boosted, train, test, CommonOptions(image_size=32, seeds=(0, 1), num_panels=2))
    assert result.names == ["base", "boosted", "mean brightness"]
    assert [row.seed for row in result.rows] == [0, 1, 0, 1, None]
    assert result.gain("error").mean == 0 and result.views_won() == 0.5  # not trained: ties
    assert result.settings["ridge"] == 0.001 and result.settings["views"] == [8, 3]
    assert result.settings["seeds draw"] == "0.8 of the training views" and len(result.panels) == 2
    assert result.settings["versions"]["torch"] == version("torch") and "rooms 0-7 32 px" in result.settings["data"]
    base, measured = (result.settings["encoders"][name]["encoder"] for name in ("base", "boosted"))
    assert base["boosted"] == [] and "delta" not in base and measured["boosted"] == [0, 1] and measured["delta"]
    assert base["weights"] == measured["weights"] == encoder_facts(tiny_vit())["weights"] and base["fingerprint"]
    assert [path.name for path in result.save(tmp_path)] == ["brightness.json", "brightness.png"]


def test_a_strangers_probe_runs_from_the_command_line(brightness: str, tmp_path, monkeypatch, capsys) -> None:
    words = f"spatialboost probe brightness --encoder timm:{TINY} --random-weights --image-size 32 --device cpu"
    words += f" --data rooms:6 --train 0.6 --test 0.4 --ridge 0.1 --seeds 2 --layer 3 --layer -1 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    assert "brightness probe" in said.out and "mean error [grey levels]" in said.out
    read = json.loads((tmp_path / "brightness.json").read_text())
    assert list(read["summary"]) == ["encoder", "mean brightness"] and len(read["rows"]) == 3
    assert read["settings"]["ridge"] == 0.1 and read["settings"]["layer"] == [3, 11]
    assert read["settings"]["data"] == "rooms:6" and read["settings"]["options"]["encoder"] == f"timm:{TINY}"
    assert read["settings"]["options"]["train"] == 0.6 and read["settings"]["options"]["random_weights"] is True
    assert (tmp_path / "brightness.png").stat().st_size > 5000


def test_unknown_probes_and_the_nearest_right_name() -> None:
    with pytest.raises(SpatialBoostError, match=r"unknown probe 'dept'; known are .*depth.*Did you mean 'depth'"):
        find_probe("dept")


@pytest.mark.parametrize("name", PROBES)
def test_every_row_of_the_registry_is_a_probe_of_that_name(name: str) -> None:
    probe = find_probe(name)
    assert issubclass(probe, Probe) and probe.name == name
    assert probe().metrics and probe.baseline and probe.__doc__


def test_features_of_other_views_are_refused_and_those_of_the_same_are_taken(brightness: str) -> None:
    train, test = Rooms(4, size=32), Rooms(2, first=100, size=32)
    features = [read_features(tiny_vit(), [rooms[i] for i in range(len(rooms))], image_size=32, patches=False)
                for rooms in (train, test)]  # fmt: skip
    ours = run_probe(brightness, {"mine": tuple(features)}, train, test)
    theirs = run_probe(brightness, {"mine": tiny_vit()}, train, test, CommonOptions(image_size=32))
    assert ours.to_dict()["rows"] == theirs.to_dict()["rows"]
    with pytest.raises(SpatialBoostError, match="of 4 and 2 views, but 3 and 2 can be read"):
        run_probe(brightness, {"mine": tuple(features)}, Rooms(3, size=32), test)


def test_views_of_scenes_count_one_by_one(brightness: str) -> None:
    from dataclasses import replace

    rooms, test = Rooms(4, size=32), Rooms(2, first=100, size=32)
    posed = [replace(rooms[index], pose_44=np.eye(4)) for index in range(4)]
    options = CommonOptions(image_size=32)
    scenes = run_probe(brightness, {"mine": tiny_vit()}, [Scene(posed[:2]), Scene(posed[2:])], test, options)
    views = run_probe(brightness, {"mine": tiny_vit()}, posed, test, options)
    assert scenes.to_dict() == views.to_dict()


def test_no_view_that_can_be_read(brightness: str) -> None:
    class Broken:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int, /) -> None:
            raise OSError("truncated file")

    with pytest.raises(SpatialBoostError, match=r"none of 2 views can be read.*the first error: 0: truncated"):
        run_probe(brightness, {"mine": tiny_vit()}, Broken(), Rooms(2, size=32), CommonOptions(image_size=32))


def test_labels_stay_with_their_images_when_a_file_breaks_in_between(tmp_path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 230)):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (16, 16), (grey + index,) * 3).save(tmp_path / split / name / f"{index}.png")
    train, test = (read_image_folder(tmp_path / split) for split in ("train", "test"))
    (tmp_path / "test" / "dark" / "0.png").write_bytes(b"")
    result = knn_probe({"mine": tiny_vit()}, train, test, image_size=32, k=1)
    assert result.values("mine", "accuracy") == [1.0] and result.settings["images"] == [6, 5]
    assert len(result.settings["left out"]) == 1 and "dark" in result.settings["left out"][0]


def test_features_made_by_hand_have_a_length() -> None:
    assert len(Features(torch.zeros(3, 4, 8), None, (2, 2), (16, 16), 0, "none")) == 3
