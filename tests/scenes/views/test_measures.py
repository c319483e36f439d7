from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.rooms.render import look, render_rooms, render_views, sample_room
from spatialboost.scenes.views.measures import Overlap, PerceptualDistance


def seen_by_both(one, other) -> float:
    """The share of points of one view that the other sees, from all of its pixels."""
    points = unproject(one.depth_HW, one.intrinsics_33).reshape(-1, 3)
    move = np.linalg.inv(other.pose_44) @ one.pose_44
    moved = points @ move[:3, :3].T + move[:3, 3]
    hits = 0
    for place, (u, v) in zip(moved, project(moved, other.intrinsics_33), strict=True):
        if np.isfinite(u) and -0.5 <= u < other.size[1] - 0.5 and -0.5 <= v < other.size[0] - 0.5:
            hits += abs(other.depth_HW[round(v), round(u)] - place[2]) <= 0.05 * place[2]
    return hits / len(points)


@pytest.mark.parametrize("size", [(48, 64), (200, 230)])
def test_the_overlap_is_the_share_of_points_that_both_see(size):
    poses = [look((0.3 * i, -1.4, -1.0), yaw=0.2 * i, pitch=0.2) for i in range(3)]
    views = render_views(sample_room(3), poses, size=size)
    overlap = Overlap()
    reduced = [overlap.reduce(view) for view in views]
    for other in (1, 2):
        true = min(seen_by_both(views[0], views[other]), seen_by_both(views[other], views[0]))
        assert overlap.difference(reduced[0], reduced[other]) == pytest.approx(1 - true, abs=0.03)
    assert overlap.difference(reduced[0], reduced[0]) == 0


def test_pixels_without_a_reading_do_not_count():
    view = render_rooms([3], size=64)[0]
    holes = view.depth_HW.copy()
    holes[:, ::2] = 0
    holes[:8] = np.nan
    overlap = Overlap()
    assert overlap.difference(overlap.reduce(view), overlap.reduce(replace(view, depth_HW=holes, valid_HW=None))) < 0.02
    away = replace(view, pose_44=view.pose_44 @ look((0, 0, 0), yaw=np.pi, pitch=0))
    assert overlap.difference(overlap.reduce(view), overlap.reduce(away)) == 1.0


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory):
    """Random weights of SqueezeNet, in a file."""
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.safetensors"
    save_file(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_lpips_is_that_of_its_own_package_with_the_weights_of_the_file(squeeze):
    lpips = pytest.importorskip("lpips")
    from safetensors.torch import load_file

    measure = PerceptualDistance("squeeze", squeeze)
    one, other = (measure.reduce(view) for view in render_rooms([3, 4], size=(240, 300)))
    assert one.shape == (224, 280, 3)
    model = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    state = {f"net.slice{n}.{key}": value for n in range(1, 8) for key, value in named(load_file(squeeze)).items()}
    model.load_state_dict({key: state[key] for key in model.state_dict() if key in state}, strict=False)
    images = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for image in (one, other)]
    with torch.no_grad():
        expected = model.eval()(*images).item()
    assert measure.difference(one, other) == pytest.approx(expected, rel=1e-4)
    assert measure.difference(one, one) == pytest.approx(0, abs=1e-6)
    assert measure.difference(one, other) > 0.01
    assert measure.name == "LPIPS squeeze 0.35 to 0.65"


def named(state):
    return {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}


def test_weights_that_cannot_be_used_are_refused_and_no_pickle_is_opened(tmp_path, squeeze, monkeypatch):
    pickle = tmp_path / "alexnet.pth"
    torch.save({}, pickle)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    with pytest.raises(SpatialBoostError, match=r"a pickle is never opened; expected a safetensors file, made by"):
        PerceptualDistance("alex", pickle)
    with pytest.raises(SpatialBoostError, match="cannot be read"):
        PerceptualDistance("alex", tmp_path / "missing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(SpatialBoostError, match="cannot be read"):
        PerceptualDistance("alex", tmp_path / "broken.safetensors")
    with pytest.raises(SpatialBoostError, match="unknown LPIPS backbone 'vgg16'"):
        PerceptualDistance("vgg16", squeeze)
    with pytest.raises(SpatialBoostError, match="expected 0 < low < high"):
        PerceptualDistance(low=0.7)


def test_weights_of_another_network_are_refused(squeeze):
    pytest.importorskip("lpips")
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(
        SpatialBoostError, match=r"the weights have no features\.0\.weight of the shape that .* alexnet"
    ):
        PerceptualDistance("alex", squeeze).difference(image, image)
    with pytest.raises(SpatialBoostError, match="no repository has the weights of alexnet as safetensors; give a file"):
        PerceptualDistance("alex").difference(image, image)


def test_the_network_is_imported_only_when_it_is_used():
    code = "import sys, spatialboost.scenes.views.choosing; sys.exit('lpips' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
