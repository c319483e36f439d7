"""The matches probe against features that know the answer, features of noise, and a second computation of PCK."""

import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.boosting import boost
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features
from spatialboost.probes.matches import ANGLES, CHANCE, matches_probe
from spatialboost.probes.views import ViewPairs
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.rooms.render import render_scenes, sample_room

SIDE, GRID = 96, 12
PAIRS = render_scenes(range(40, 48), views=2, size=SIDE)


def features_of(pairs, make) -> tuple[Features, Features]:
    tokens = torch.stack([make(view) for scene in pairs for view in scene.views])
    both = Features(tokens, None, (GRID, GRID), (SIDE, SIDE), 0, "none")
    return both, both


def places(view) -> torch.Tensor:
    """For each patch centre its place in the world, as many waves, so that the cosine falls with the distance."""
    world = unproject(view.depth_HW, view.intrinsics_33) @ view.pose_44[:3, :3].T + view.pose_44[:3, 3]
    step = SIDE // GRID
    centres = np.arange(step // 2, SIDE, step)
    points = torch.from_numpy(world[np.ix_(centres, centres)].reshape(-1, 3)).float()
    frequencies = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)) * 3
    phases = points @ frequencies
    return torch.cat([phases.sin(), phases.cos()], -1)


def test_tokens_that_know_their_place_find_it_again():
    result = matches_probe({"oracle": features_of(PAIRS, places)}, PAIRS)
    assert result.spread("oracle", "pck_0.1").mean > 0.97
    assert result.spread("oracle", "pck_0.05").mean > 0.85
    assert result.settings["pairs measured"] == len(PAIRS)


def test_tokens_of_noise_are_at_chance():
    generator = torch.Generator().manual_seed(1)
    noise = features_of(PAIRS, lambda view: torch.randn(GRID * GRID, 64, generator=generator))
    result = matches_probe({"noise": noise}, PAIRS)
    chance, points = result.spread(CHANCE, "pck_0.1").mean, result.settings["points"]
    assert abs(result.spread("noise", "pck_0.1").mean - chance) < 4 * math.sqrt(chance / points)
    assert 0.5 * math.pi * 0.1**2 < chance < math.pi * 0.1**2  # a disc of this radius, cut off at the edges


def test_pck_is_that_of_a_second_computation():
    """Point by point with the homography of the second camera, without the code of the tracks."""
    generator = torch.Generator().manual_seed(2)
    features = features_of(PAIRS, lambda view: places(view) + torch.randn(GRID * GRID, 512, generator=generator))
    right = total = 0
    for number, scene in enumerate(PAIRS):
        first, second = scene.views
        tokens = features[0].tokens[2 * number : 2 * number + 2]
        for patch in range(GRID * GRID):
            row, column = divmod(patch, GRID)
            u, v = (column + 0.5) * SIDE / GRID - 0.5, (row + 0.5) * SIDE / GRID - 0.5
            depth = first.depth_HW[math.floor(v + 0.5), math.floor(u + 0.5)]
            ray = np.linalg.solve(first.intrinsics_33, [u, v, 1.0])
            world = first.pose_44 @ [*(ray * depth), 1.0]
            x, y, z, _ = np.linalg.inv(second.pose_44) @ world
            if z <= 0:
                continue
            p, q, _ = second.intrinsics_33 @ [x / z, y / z, 1.0]
            if not all(3.5 <= each < SIDE - 4.5 for each in (u, v, p, q)):
                continue
            around = [(math.floor(q) + b, math.floor(p) + a) for a in (0, 1) for b in (0, 1)]
            measured = [float(second.depth_HW[min(b, SIDE - 1), min(a, SIDE - 1)]) for b, a in around]
            if not any(abs(each - z) < 0.05 * min(each, z) for each in measured):
                continue
            similarity = torch.cosine_similarity(tokens[0][patch], tokens[1], dim=-1)
            found_row, found_column = divmod(int(similarity.argmax()), GRID)
            found = (found_column + 0.5) * SIDE / GRID - 0.5, (found_row + 0.5) * SIDE / GRID - 0.5
            total += 1
            right += math.hypot(found[0] - p, found[1] - q) <= 0.1 * SIDE
    result = matches_probe({"some": features}, PAIRS)
    assert result.settings["points"] == total > 300
    assert result.spread("some", "pck_0.1").mean == pytest.approx(right / total, abs=1e-9)
    assert 0.3 < right / total < 0.99


def test_shares_by_angle_are_of_the_pairs_in_each_bin():
    result = matches_probe({"oracle": features_of(PAIRS, places)}, PAIRS)
    bins = [name for name in result.metrics if "turn" in name]
    assert bins and len(bins) <= len(ANGLES) - 1
    assert set(result.rows[0].metrics) == set(result.metrics) == set(result.rows[-1].metrics)


def test_a_boosted_encoder_is_measured_as_base_and_boosted():
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    result = matches_probe(boost(encoder), PAIRS[:3], image_size=SIDE, num_panels=2)
    assert result.gain("pck_0.1").mean == 0 and result.views_won() == 0.5
    assert len(result.panels) == 2


def test_frames_of_a_walk_become_pairs_by_stride(tmp_path):
    from spatialboost.scenes.rooms.render import look, render_views

    poses = [look((0.1 * i, -1.4, -1.0), yaw=0.05 * i, pitch=0.2) for i in range(8)]
    walk = render_views(sample_room(3), poses, size=48)
    pairs = ViewPairs(walk, [1, 3, 30], most=3)
    assert [[view.source[-1] for view in pair.views] for pair in pairs] == [
        ["0", "1"],
        ["3", "4"],
        ["6", "7"],
        ["0", "3"],
        ["2", "5"],
        ["4", "7"],
    ]
    encoder = VisionTransformer(img_size=48, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    result = matches_probe({"mine": encoder}, pairs, image_size=48)
    result.save(tmp_path)
    assert (tmp_path / "matches.json").is_file() and (tmp_path / "matches.png").is_file()


def test_what_is_no_pair_is_left_out_or_refused():
    encoder = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    alone = Rooms(2, size=32)[0]
    result = matches_probe({"mine": encoder}, [PAIRS[0], alone], image_size=32)
    assert len(result.settings["left out"]) == 1 and "single view" in result.settings["left out"][0]
    with pytest.raises(SpatialBoostError, match="has 500 patches that both views see"):
        matches_probe({"mine": encoder}, PAIRS[:2], image_size=32, least=500)
    with pytest.raises(SpatialBoostError, match="the smallest stride is 5"):
        ViewPairs(Rooms(3, size=32))
    with pytest.raises(SpatialBoostError, match="strides are"):
        ViewPairs(Rooms(3, size=32), [0])
