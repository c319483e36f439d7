import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.depth import CONSTANT, depth_probe
from spatialboost.probes.features import Features
from spatialboost.scenes.cues import Cues, CuesError


def tiny_vit(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)


def slopes(num: int, seed: int = 0, size: tuple[int, int] = (48, 64)) -> list[Cues]:
    """Views whose brightness says the depth, and whose top rows have no reading."""
    rng = np.random.default_rng(seed)
    views = []
    for index in range(num):
        near, far = rng.uniform(1, 2), rng.uniform(3, 6)
        depth = np.linspace(near, far, size[0], dtype=np.float32)[:, None].repeat(size[1], 1)
        image = (depth[..., None] * 40).astype(np.uint8).repeat(3, 2)
        depth[: size[0] // 6] = 0
        views.append(Cues(image, depth, np.diag([60.0, 60.0, 1.0]), f"slope {seed}:{index}"))
    return views


TRAIN, TEST = slopes(16), slopes(4, seed=1)


def features_of(views: Sequence[Cues], make) -> Features:
    """Features made by hand on a 4x4 grid, from the true depth."""
    tokens = torch.stack([make(view) for view in views])
    return Features(tokens, None, (4, 4), (32, 32), 0, "none")


def cell_means(view: Cues) -> torch.Tensor:
    cells = np.where(view.valid_HW, view.depth_HW, np.nan).reshape(4, 12, 4, 16)
    return torch.from_numpy(np.nan_to_num(np.nanmean(cells, axis=(1, 3)))).float().reshape(16, 1)


def test_depth_that_is_written_into_the_features_is_read_exactly() -> None:
    oracle = features_of(TRAIN, cell_means), features_of(TEST, cell_means)
    result = depth_probe({"oracle": oracle}, TRAIN, TEST, target="metres", level="patches", ridges=[0.0])
    # patches see the depth through nearest neighbours of 32x32 pixels, not through all 48x64
    assert result.spread("oracle", "rmse").mean < 0.05
    assert result.spread("oracle", "delta1").mean == 1.0


def test_features_of_noise_are_no_better_than_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = [features_of(views, lambda _: torch.randn(16, 8, generator=generator)) for views in (TRAIN, TEST)]
    result = depth_probe({"noise": tuple(noise)}, TRAIN, TEST, target="metres")
    assert result.spread("noise", "rmse").mean > 0.9 * result.spread(CONSTANT, "rmse").mean


def test_constant_scores_what_the_mean_depth_scores() -> None:
    result = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, image_size=32)
    constant = next(row for row in result.rows if row.name == CONSTANT)
    truth = np.concatenate([view.depth_HW[view.valid_HW] for view in TEST]).astype(float)
    assert constant.metrics["rmse"] == pytest.approx(np.sqrt(np.mean((truth - constant.chosen["metres"]) ** 2)))
    assert constant.metrics["abs_rel"] == pytest.approx(np.mean(np.abs(truth - constant.chosen["metres"]) / truth))


def test_a_view_that_the_encoder_sees_beats_the_constant() -> None:
    result = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, image_size=32)
    assert result.spread("mine", "rmse").mean < 0.7 * result.spread(CONSTANT, "rmse").mean


@pytest.mark.parametrize("target", ["log", "metres"])
@pytest.mark.parametrize("patch_depth", ["mean", "median"])
@pytest.mark.parametrize("level", ["pixels", "patches"])
def test_every_setting_runs_and_is_told(target: str, patch_depth: str, level: str) -> None:
    result = depth_probe(
        {"mine": tiny_vit()}, TRAIN, TEST, image_size=32, target=target, patch_depth=patch_depth, level=level
    )
    assert result.spread("mine", "rmse").mean < result.spread(CONSTANT, "rmse").mean
    assert result.settings["layer"] == 1 and result.settings["norm"] == "the encoder's final norm"
    assert result.settings["resolution"] == [32, 32]
    assert level in result.settings["measured on"]


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    first = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, image_size=32, seeds=(3, 4))
    again = depth_probe({"mine": tiny_vit()}, TRAIN, TEST, image_size=32, seeds=(3, 4))
    assert first.to_dict() == again.to_dict()
    assert len(set(first.values("mine", "rmse"))) == 2


class Broken(Sequence):
    """Views of which the third cannot be read."""

    def __len__(self) -> int:
        return len(TRAIN)

    def __getitem__(self, index: int) -> Cues:
        if index == 2:
            raise CuesError("frame 2: the depth file is empty")
        return TRAIN[index]


def test_a_broken_frame_is_left_out_and_named() -> None:
    result = depth_probe({"mine": tiny_vit()}, Broken(), TEST, image_size=32)
    assert result.settings["left out"] == ["2: frame 2: the depth file is empty"]
    assert result.settings["views"] == [15, 4]
    whole = [view for index, view in enumerate(TRAIN) if index != 2]
    assert result.values("mine", "rmse") == depth_probe({"mine": tiny_vit()}, whole, TEST, image_size=32).values(
        "mine", "rmse"
    )


def test_features_of_other_views_are_refused() -> None:
    short = features_of(TRAIN[:5], cell_means), features_of(TEST, cell_means)
    with pytest.raises(SpatialBoostError, match="of 5 and 4 views, but 16 and 4"):
        depth_probe({"short": short}, TRAIN, TEST)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "inches"}, "target is 'inches'; expected one of"),
        ({"seeds": ()}, "at least one each"),
        ({"folds": 1}, "at least 2 folds"),
        ({"min_valid": 0.0}, "shares above 0"),
        ({"image_size": 33}, "not a multiple of the encoder's patch size 8"),
        ({"layer": 7}, "encoder has 2"),
    ],
)
def test_wrong_settings_say_what_is_right(settings: dict, message: str) -> None:
    with pytest.raises(SpatialBoostError, match=message):
        depth_probe({"mine": tiny_vit()}, TRAIN, TEST, **{"image_size": 32, **settings})


def test_too_few_views() -> None:
    with pytest.raises(SpatialBoostError, match="2 views to fit on and 4 to measure on"):
        depth_probe({"mine": tiny_vit()}, TRAIN[:2], TEST, image_size=32)


def test_base_is_the_encoder_before_boosting_and_boosted_the_one_after() -> None:
    boosting = pytest.importorskip("spatialboost.boosting")
    plain, boosted = tiny_vit(), boosting.boost(tiny_vit())
    for name, parameter in boosting.named_parameters(boosted):
        if "gate" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    result = depth_probe(boosted, TRAIN, TEST, image_size=32)
    assert result.names == ["base", "boosted", CONSTANT]
    apart = depth_probe({"base": plain, "boosted": boosted}, TRAIN, TEST, image_size=32)
    assert result.to_dict()["rows"] == apart.to_dict()["rows"]
    assert result.values("base", "rmse") != result.values("boosted", "rmse")
    assert 0 <= result.views_won() <= 1


def test_saves_json_and_picture(tmp_path) -> None:
    result = depth_probe({"base": tiny_vit(), "boosted": tiny_vit(1)}, TRAIN, TEST, image_size=32)
    written = result.save(tmp_path / "probe")
    assert [path.name for path in written] == ["depth.json", "depth.png"]
    read = json.loads(written[0].read_text())
    assert read["summary"]["boosted"]["rmse"]["mean"] == result.spread("boosted", "rmse").mean
    assert len(read["rows"]) == 2 * 3 + 1
    from PIL import Image

    assert min(Image.open(written[1]).size) > 300
