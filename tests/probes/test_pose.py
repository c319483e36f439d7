"""The pose probe: features that know the answer, noise, and its errors computed a second time."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from timm.models.vision_transformer import VisionTransformer

from place_tokens import features_of, place_tokens
from retrieval_writers import write_amstertime
from spatialboost.boosting import boost
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.pose import CHANCE, PoseProbe, mutual_matches, pose_probe
from spatialboost.probes.pose_errors import FAILED, area_under_curve, pose_errors
from spatialboost.probes.probe_command import make_command
from spatialboost.probes.protocol import find_probe
from spatialboost.probes.run import run_probe
from spatialboost.probes.views import ViewPairs
from spatialboost.scenes.readers.layout import Joined
from spatialboost.scenes.rooms.render import look, render_scenes, render_views, sample_room

SIDE, GRID = 96, 24
PAIRS = render_scenes(range(40, 46), views=2, size=SIDE)


def measured(make, pairs=PAIRS, grid=GRID, **options):
    features = features_of(pairs, make, grid, SIDE)
    return run_probe(PoseProbe(**options), {"mine": (features, features)}, None, pairs)


@pytest.mark.parametrize("depth", [False, True])
def test_tokens_that_know_their_place_give_the_pose(depth: bool) -> None:
    result = measured(lambda view: place_tokens(view, GRID), depth=depth)
    assert result.values("mine", "error")[0] < 6 < 30 < result.values(CHANCE, "error")[0]
    assert result.values("mine", "auc_20")[0] > 0.6 > 0.3 > result.values(CHANCE, "auc_20")[0]
    assert result.values("mine", "rotation")[0] < 3 < result.settings["median turn between the cameras"]
    assert ("distance" in result.metrics) == depth
    if depth:
        assert result.values("mine", "distance")[0] < 0.1


def test_noise_is_no_better_than_random_matches_and_a_run_can_be_repeated() -> None:
    def run():
        generator = torch.Generator().manual_seed(1)
        return measured(lambda view: torch.randn(144, 64, generator=generator), PAIRS[:4], grid=12)

    result = run()
    for name in ("mine", CHANCE):
        assert result.values(name, "auc_20")[0] < 0.3 and result.values(name, "error")[0] > 20
    again = run()
    assert [row.metrics for row in result.rows] == [row.metrics for row in again.rows]
    assert result.rows[0].per_view == again.rows[0].per_view and len(result.rows[0].per_view) == 4


def test_matches_are_mutual() -> None:
    first, second = torch.randn(30, 8), torch.randn(40, 8)
    found = mutual_matches(first, second)
    cosine = torch.cosine_similarity(first[:, None], second[None], dim=-1).numpy()
    expected = [
        [row, column]
        for row in range(30)
        for column in range(40)
        if cosine[row, column] == cosine[row].max() == cosine[:, column].max()
    ]
    assert found.tolist() == expected and expected


def test_errors_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        guess, truth = np.eye(4), np.eye(4)
        turns = Rotation.random(2, rng=rng)
        guess[:3, :3], truth[:3, :3] = turns[0].as_matrix(), turns[1].as_matrix()
        guess[:3, 3], truth[:3, 3] = rng.normal(size=3), rng.normal(size=3)
        turn, direction = pose_errors(guess, truth, signed=True)
        assert turn == pytest.approx(np.degrees((turns[0] * turns[1].inv()).magnitude()), abs=1e-5)
        apart, _ = Rotation.align_vectors(
            guess[:3, 3] / np.linalg.norm(guess[:3, 3]), truth[:3, 3] / np.linalg.norm(truth[:3, 3])
        )
        assert direction == pytest.approx(np.degrees(apart.magnitude()), abs=1e-5)
        assert pose_errors(guess, truth, signed=False)[1] == pytest.approx(min(direction, 180 - direction))
    assert pose_errors(None, truth, signed=True) == (FAILED, FAILED)
    still = np.eye(4)
    assert pose_errors(guess, still, signed=True)[1] == 0 and pose_errors(still, truth, signed=True)[1] == 90


def test_area_is_that_of_a_fine_sum() -> None:
    rng = np.random.default_rng(0)
    for most in (5, 10, 20):
        errors = rng.uniform(0, 30, 50)
        x = np.concatenate([[0], np.sort(errors)])
        y = np.arange(51) / 50
        within = x < most
        fine = np.linspace(0, most, 200_001)
        total = np.interp(fine, x[within], y[within]).mean()  # constant after the last one
        assert area_under_curve(errors.tolist(), most) == pytest.approx(total, abs=1e-4)
    assert area_under_curve([1.0, 9.0], 5) == pytest.approx((0.5 * 1 * 0.5 + 4 * 0.5) / 5)


def test_a_boosted_encoder_is_measured_as_base_and_boosted(tmp_path) -> None:
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=SIDE, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    result = pose_probe(boost(encoder), PAIRS[:3], image_size=SIDE)
    assert result.gain("auc_10").mean == 0 and result.names == ["base", "boosted", CHANCE]
    assert (result.save(tmp_path)[0]).name == "pose.json"
    with pytest.raises(SpatialBoostError, match="radius is 0"):
        PoseProbe(radius=0)


def test_pairs_are_of_one_recording() -> None:
    poses = [look((0.1 * i, -1.4, -1.0), yaw=0.05 * i, pitch=0.2) for i in range(4)]
    walks = Joined({name: render_views(sample_room(seed), poses, size=32) for name, seed in (("a", 3), ("b", 4))})
    pairs = ViewPairs(walks, [2])
    assert [[view.source[-7:] for view in pair.views] for pair in pairs] == [
        ["3/view0", "3/view2"],
        ["3/view1", "3/view3"],
        ["4/view0", "4/view2"],
        ["4/view1", "4/view3"],
    ]
    with pytest.raises(
        SpatialBoostError, match="8 views, 4 in the longest of 2 recordings, and the smallest stride is 5"
    ):
        ViewPairs(walks, [5])


@pytest.mark.parametrize("name", ["pose", "points", "retrieval"])
def test_the_commands_of_scenes_and_retrieval(name: str, tmp_path, capsys) -> None:
    write_amstertime(tmp_path / "set")
    options = {
        "pose": ["--data", "rooms:2", "--depth"],
        "points": ["--data", "rooms:5", "--views", "4", "--steps", "5", "--voxel", "0.2", "--seeds", "2"],
        "retrieval": ["--data", str(tmp_path / "set"), "--token", "mean"],
    }[name]
    common = ["--encoder", "timm:vit_tiny_patch16_224", "--random-weights", "--image-size", "32", "--device", "cpu"]
    make_command(find_probe(name)).main([*options, *common, "--out", str(tmp_path)], standalone_mode=False)
    assert f"{name} probe" in capsys.readouterr().out
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert "encoder" in found["summary"] and (tmp_path / f"{name}.png").is_file()
