from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError, SceneObject
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import KINDS, PartialCues, TryAgainError
from spatialboost.scenes.extract.registry import EXTRACTORS, open_extractor
from spatialboost.scenes.extract.segments import propose_objects
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.registry import look_up
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from tiny_cues import tiny_cues

POINTS = TurnPlan({"depth": 2})


class Halves:
    """Adds the two halves of every view as objects, and records its inputs."""

    kind, name = "masks", "halves"

    def __init__(self, *, word: str = "half") -> None:
        self.word, self.batches = word, []

    def __call__(self, views):
        self.batches.append([view.source for view in views])
        return [{"objects": self._objects(view)} for view in views]

    def _objects(self, view):
        left = np.zeros(view.image_HW3.shape[:2], bool)
        left[:, : left.shape[1] // 2] = True
        return [SceneObject(f"left {self.word}", left), SceneObject(f"right {self.word}", ~left)]


class Flat:
    """Sets the depth to two metres everywhere; it fails for some images."""

    kind, name = "depth", "flat"

    def __call__(self, views):
        bad = [view.source for view in views if view.source.endswith("broken")]
        if bad:
            raise OSError(f"{bad[0]}: the network saw nothing")
        return [self._depth(view) for view in views]

    def _depth(self, view):
        height, width = view.image_HW3.shape[:2]
        intrinsics = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
        return {"depth_HW": np.full((height, width), 2.0, np.float32), "intrinsics_33": intrinsics}


class Dark:
    """Rejects dark views."""

    kind, name = "filter", "dark"

    def __call__(self, views):
        return [
            {"facts": {"mean": float(view.image_HW3.mean())}}
            if view.image_HW3.mean() > 50
            else CuesError(f"{view.source}: it is too dark")
            for view in views
        ]


class Together:
    """Records the number of views in each call."""

    kind, name = "reconstruction", "together"

    def __call__(self, views):
        return [{"depth_noise": len(views) / 100} for _ in views]


def photographs(num: int = 6) -> list[PartialCues]:
    names = [f"photograph {number}" + (" broken" if number == 2 else "") for number in range(num)]
    return [PartialCues(np.full((24, 32, 3), 20 * number, np.uint8), name) for number, name in enumerate(names)]


def test_the_registered_extractor_is_the_proposer():
    views = [replace(tiny_cues(), objects=()), tiny_cues()]
    found = Extracted(views, [open_extractor("superpixels", max_objects=3)])
    for given, view in zip(views, found, strict=True):
        expected = propose_objects(given, max_objects=3).objects
        assert [thing.description for thing in view.objects] == [thing.description for thing in expected]
        assert all(np.array_equal(a.mask_HW, b.mask_HW) for a, b in zip(view.objects, expected, strict=True))
    assert found.name == "list with up to 3 proposals"
    assert Extracted(views, [open_extractor("superpixels")]).name == "list with proposals"


def test_a_strangers_extractor_is_one_line_and_then_builds(tmp_path, monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "halves", Halves)
    source = Extracted(Rooms(3, size=64), [open_extractor("halves", word="part")])
    assert source.name == "rooms 0-2 64 px with halves"
    plan = TurnPlan({"distance": 1})
    assert build_dataset(source, tmp_path, plan=plan, progress=False).written == 3
    assert all("left part" in row["messages"][0]["content"] for row in open_rows([tmp_path]))


def test_every_registered_extractor_opens_and_keeps_to_the_protocol():
    for name in EXTRACTORS:
        if "model" in inspect.signature(look_up(EXTRACTORS, "extractor", name)).parameters:
            continue  # those with a network have tests of their own, with weights
        extractor = open_extractor(name)
        assert extractor.kind in KINDS
        assert isinstance(extractor.name, str)
        (addition,) = extractor([PartialCues.of(tiny_cues())])
        assert set(addition) <= set(KINDS[extractor.kind].sets)


def test_what_is_unknown_is_an_error_with_the_nearest_name(monkeypatch):
    with pytest.raises(SpatialBoostError, match=r"unknown extractor 'superpixel'; .* Did you mean 'superpixels'\?"):
        open_extractor("superpixel")
    with pytest.raises(SpatialBoostError, match=r"'superpixels' has no option 'device'; its options are max_objects"):
        open_extractor("superpixels", device="cuda")
    monkeypatch.setitem(EXTRACTORS, "dark", Dark)
    with pytest.raises(SpatialBoostError, match="'dark' has no option 'model'; it has no options"):
        open_extractor("dark", model="x")
    monkeypatch.setattr(Dark, "kind", "filters")
    with pytest.raises(SpatialBoostError, match=r"unknown kind of extractor 'filters'; .* Did you mean 'filter'\?"):
        open_extractor("dark")


def test_items_go_through_in_fixed_batches_and_only_when_they_are_asked_for():
    halves = Halves()
    views = [replace(tiny_cues(), source=str(number)) for number in range(7)]
    source = Extracted(views, [halves], batch_size=3)
    assert (len(source), halves.batches) == (7, [])
    assert source[4].objects[0].description == "left half"
    source[5], source[3]
    assert halves.batches == [["3", "4", "5"]]
    source[6]
    assert halves.batches[1:] == [["6"]]
    with pytest.raises(IndexError, match="item 7 of 7"):
        source[7]


def test_photographs_get_their_depth_and_bad_ones_cost_no_other(tmp_path):
    source = Extracted(photographs(), [Flat(), Dark()])
    assert source[4].facts == {"mean": 80.0}
    assert source[5].valid_HW.all()
    report = build_dataset(source, tmp_path, plan=POINTS, progress=False)
    assert report.written == 3
    assert report.names == {
        "0": "photograph 0: it is too dark",
        "1": "photograph 1: it is too dark",
        "2": "photograph 2 broken: the network saw nothing",
    }


def test_a_bad_item_of_the_source_stays_bad_and_alone():
    class Source:
        names = ("good", "bad", "good too")

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise CuesError("bad: no pixel has a valid depth")
            return tiny_cues()

    source = Extracted(Source(), [Halves()])
    assert source.names == ("good", "bad", "good too")
    for _ in range(2):
        with pytest.raises(CuesError, match="bad: no pixel"):
            source[1]
    assert source[0].objects and source[2].objects


def test_missing_depth_names_the_kind_that_gives_it():
    with pytest.raises(CuesError, match="photograph 0: depth_HW is not known; add an extractor of the kind 'depth'"):
        Extracted(photographs(), [Halves()])[0]


def test_new_depth_is_valid_where_it_has_a_reading():
    view = Extracted([tiny_cues(holes=True)], [Flat()])[0]
    assert view.valid_HW.all()


def test_every_view_of_a_scene_goes_through_and_a_scene_is_reconstructed_together():
    scenes = Rooms(2, size=32, views=3)
    halves = Halves()
    first, second = Extracted(scenes, [halves, Together()])
    assert halves.batches == [[view.source for scene in scenes for view in scene.views]]
    assert isinstance(second, Scene)
    assert [len(view.objects) for view in first.views] == [2, 2, 2]
    assert [view.depth_noise for view in second.views] == [0.03] * 3
    assert isinstance(Extracted(Rooms(1, size=32), [Together()])[0], Cues)


def test_an_extractor_that_breaks_the_protocol_is_not_taken_for_bad_views(monkeypatch):
    monkeypatch.setattr(Halves, "__call__", lambda self, views: [{"depth_HW": view.depth_HW} for view in views])
    with pytest.raises(TypeError, match="'halves' sets depth_HW; those of the kind 'masks' may set objects"):
        Extracted([tiny_cues()], [Halves()])[0]
    monkeypatch.setattr(Halves, "__call__", lambda self, views: [])
    with pytest.raises(TypeError, match="'halves' gave 0 results for 1 views"):
        Extracted([tiny_cues()], [Halves()])[0]
    for wrong in ({"extractors": []}, {"extractors": [Halves()], "batch_size": 0}):
        with pytest.raises(SpatialBoostError, match="expected at least 1 of each"):
            Extracted([tiny_cues()], **wrong)


# --- the cache


class Costly(Flat):
    """As `Flat`, and counts the views that it was called with."""

    name = "costly"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, views):
        self.seen += [view.source for view in views]
        return super().__call__(views)


def load_all(source) -> list[object]:
    found = []
    for index in range(len(source)):
        try:
            found.append(source[index])
        except (CuesError, OSError) as error:
            found.append(str(error))
    return found


def test_cached_results_are_those_of_the_extractors(tmp_path):
    plain = load_all(Extracted(photographs(), [Flat(), Halves(), Dark()]))
    costly = Costly()
    for _ in range(2):
        again = load_all(Extracted(photographs(), [costly, Halves(), Dark()], cache=tmp_path))
        for expected, found in zip(plain, again, strict=True):
            if isinstance(expected, str):
                assert found == expected
                continue
            for field in ("image_HW3", "depth_HW", "valid_HW", "intrinsics_33"):
                assert np.array_equal(getattr(found, field), getattr(expected, field))
            assert (found.facts, found.depth_noise) == (expected.facts, expected.depth_noise)
            for thing, right in zip(found.objects, expected.objects, strict=True):
                assert thing.description == right.description
                assert np.array_equal(thing.mask_HW, right.mask_HW)


def test_a_step_runs_again_only_if_its_inputs_or_its_name_changed(tmp_path):
    views = [view for view in photographs() if "broken" not in view.source]
    costly = Costly()
    load_all(Extracted(views, [costly], cache=tmp_path, batch_size=5))
    assert len(costly.seen) == 5
    load_all(Extracted(views, [costly, Dark()], cache=tmp_path, batch_size=5))  # one more step
    load_all(Extracted(views[::-1], [costly], cache=tmp_path, batch_size=2))  # other batches
    assert len(costly.seen) == 5
    brighter = [replace(views[0], image_HW3=views[0].image_HW3 + 1), *views[1:]]
    load_all(Extracted(brighter, [costly], cache=tmp_path, batch_size=1))
    assert costly.seen[5:] == [views[0].source]
    costly.name = "costly, model 2"
    load_all(Extracted(views, [costly], cache=tmp_path, batch_size=5))
    assert len(costly.seen) == 11


def test_damaged_and_transient_results_are_made_again(tmp_path):
    class Server(Dark):
        name, up = "server", False

        def __call__(self, views):
            return super().__call__(views) if self.up else [TryAgainError(f"{v.source}: no answer") for v in views]

    server, views = Server(), photographs()[3:5]
    assert load_all(Extracted(views, [Flat(), server], cache=tmp_path)) == [
        f"photograph {number}: no answer" for number in (3, 4)
    ]
    server.up = True
    assert all(isinstance(view, Cues) for view in load_all(Extracted(views, [Flat(), server], cache=tmp_path)))
    files = sorted(tmp_path.rglob("*.npz"))
    for file, content in zip(files, (b"", b"PK\3\4 no", b"\x93NUMPY"), strict=False):
        file.write_bytes(content)
    assert all(isinstance(view, Cues) for view in load_all(Extracted(views, [Flat(), server], cache=tmp_path)))
    assert not list(tmp_path.rglob("*.tmp"))


def test_views_of_a_scene_are_cached_together(tmp_path):
    scene = Scene([replace(tiny_cues(), pose_44=np.eye(4), source=str(number)) for number in range(3)])
    for _ in range(2):
        (found,) = load_all(Extracted([scene], [Together()], cache=tmp_path))
        assert [view.depth_noise for view in found.views] == [0.03] * 3
