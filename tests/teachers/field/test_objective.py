"""What the field may know, what gets gradients, and that a loss does not depend on how rows are put into batches."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import spatialboost as sb
from spatialboost.teachers.field import FieldObjective, FieldOptions, measure_rendering
from spatialboost.teachers.field.geometry import KnownGeometry
from spatialboost.teachers.field.measures import batch_of, feature_maps
from spatialboost.teachers.field.objective import Roles, feature_error
from spatialboost.teachers.field.vggt import in_first_frame

GRID = (2, 2)
SMALL = {"width": 16, "heads": 2, "depth": 1, "latents": 4}


def objective(**options) -> FieldObjective:
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    return FieldObjective(encoder.eval(), FieldOptions(**{**SMALL, **options}), KnownGeometry(GRID), grid=GRID)


def sequence(seed: int, views: int = 4, contexts: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    poses = torch.eye(4).repeat(views, 1, 1)
    poses[:, :3, :3] = torch.linalg.qr(torch.eye(3) + 0.1 * torch.randn(views, 3, 3))[0]
    poses[:, :3, 3] = 0.3 * torch.randn(views, 3)
    return {
        "pixel_values": torch.randn(views, 3, 32, 32),
        "frames": torch.tensor(views),
        "contexts": torch.tensor(contexts),
        "poses": in_first_frame(poses),
        "intrinsics": torch.tensor([[0.9, 0.9, 0.0, 0.0]]).repeat(views, 1),
        "depths": torch.rand(views, 4) + 1,
    }


@pytest.mark.parametrize("camera", ["prope", "pluecker"])
def test_what_is_rendered_depends_on_context_and_camera_and_not_on_target_images(camera):
    """Minimal test 2: the latents do not change with the targets; so neither does what is rendered."""
    field = objective(camera=camera)
    batch = batch_of([sequence(1)])
    before = field.render(batch, targets_only=True).predicted["semantic"]
    for name, view, same in (
        ("pixel_values", 3, True),
        ("depths", 3, True),
        ("pixel_values", 1, False),
        ("poses", 3, False),
        ("poses", 1, False),
        ("depths", 1, True),  # depth is no input
    ):
        other = {key: value.clone() for key, value in batch.items()}
        other[name][view] = other[name][view] + 0.5 * torch.rand_like(other[name][view])
        after = field.render(other, targets_only=True).predicted["semantic"]
        assert torch.equal(before, after) == same, (name, view)
        assert not torch.equal(before, before + 1)


def test_the_probe_gives_the_field_no_gradient():
    """Minimal test 6. The probe has a gradient, the decoder has none of it."""
    field = objective()
    found = field.render(batch_of([sequence(1)]), targets_only=False)
    found.depths.sum().backward()
    with_gradient = {name.partition(".")[0] for name, p in field.field.named_parameters() if p.grad is not None}
    assert with_gradient == {"depth_probe"}


def test_the_loss_does_not_depend_on_the_batch():
    """Sequences of different numbers of views: alone, together, and with the division by all their patches."""
    field = objective().eval()
    rows = [sequence(1), sequence(2, views=6, contexts=3), sequence(3, views=2, contexts=1)]
    together = field(**batch_of(rows))
    total = field.num_items(batch_of(rows))
    assert int(total) == (4 + 6 + 2) * 4
    alone = [field(**batch_of([row]), num_items_in_batch=total) for row in rows]
    for name in ("loss", "semantic", "geometric", "depth"):
        torch.testing.assert_close(together[name], sum(each[name] for each in alone), atol=1e-5, rtol=1e-4)
    targets = objective(over="targets")
    assert int(targets.num_items(batch_of(rows))) == (2 + 3 + 1) * 4


def test_roles_count_over_sequences():
    roles = Roles.of(torch.tensor([3, 4]), torch.tensor([1, 2]), targets_only=True)
    assert roles.context_BV.tolist() == [[0, 0], [3, 4]] and roles.known_BV.tolist() == [[True, False], [True, True]]
    assert roles.rendered_R.tolist() == [1, 2, 5, 6] and roles.scene_R.tolist() == [0, 0, 1, 1]


def test_patches_without_depth_add_nothing_to_geometry_and_probe():
    field = objective().eval()
    row = sequence(1)
    row["depths"][:, 0] = 0
    found = field.render(batch_of([row]), targets_only=False)
    assert not found.known[:, 0].any() and found.known[:, 1:].all()
    error = feature_error(found.predicted["geometric"], found.true["geometric"])[:, 1:].sum() / 16
    torch.testing.assert_close(field(**batch_of([row]))["geometric"], error)


def trained(field: FieldObjective, part: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())


@pytest.mark.parametrize("pupil", ["context", "semantic"])
def test_gradients_reach_attn_plus(pupil):
    """Through the field, whose targets are those of the base; or directly, towards what the field renders."""
    field = objective(pupil=pupil)
    field.requires_grad_(False)
    sb.boost(field.encoder)
    if pupil == "context":
        field.field.requires_grad_(True)
    field(**batch_of([sequence(1), sequence(2)]))["loss"].backward()
    assert trained(field, field.encoder) and not trained(field, field.base_encoder)
    assert trained(field, field.field) == (pupil == "context")


def test_what_is_rendered_begins_at_the_mean_of_measured_features_of_any_size():
    features = torch.randn(6, 4, 48) * torch.tensor([1e3, *[1.0] * 47]) + torch.linspace(-40, 40, 48)
    near = []
    for measured in (True, False):
        field = objective().eval()
        if measured:
            field.measure(features)
        rendered = field.render(batch_of([sequence(1)]), targets_only=True).predicted["semantic"]
        near.append(float(((rendered.detach() - features.mean((0, 1))) / features.std((0, 1))).abs().mean()))
    assert near[0] < 0.5 < 5 < near[1]


def test_what_boosting_changes():
    """With pupil context the rendering changes with the encoder, the truth does not; with semantic neither does."""
    for pupil in ("context", "semantic"):
        field = objective(pupil=pupil).eval()
        batch = batch_of([sequence(1)])
        before = field.render(batch, targets_only=True)
        with torch.no_grad():
            for p in field.encoder.blocks[1].parameters():
                p.add_(0.1 * torch.randn_like(p))
        after = field.render(batch, targets_only=True)
        assert torch.equal(before.true["semantic"], after.true["semantic"])
        assert torch.equal(before.predicted["semantic"], after.predicted["semantic"]) == (pupil == "semantic")


def test_the_control_renders_another_place():
    field = objective().eval()
    rows = [sequence(1), sequence(2)]
    own = field.render(batch_of(rows), targets_only=True)
    field.exchange = True
    other = field.render(batch_of(rows), targets_only=True)
    assert torch.equal(own.true["semantic"], other.true["semantic"])
    assert not torch.equal(own.predicted["semantic"], other.predicted["semantic"])
    field.exchange = False
    mixed = {**rows[0], "poses": rows[0]["poses"].clone()}
    mixed["pixel_values"] = torch.cat([rows[1]["pixel_values"][:2], rows[0]["pixel_values"][2:]])
    mixed["poses"][1] = rows[1]["poses"][1]
    exchanged = field.render(batch_of([mixed]), targets_only=True).predicted["semantic"]
    torch.testing.assert_close(other.predicted["semantic"][:2], exchanged, atol=1e-5, rtol=1e-4)


def test_measures_of_a_field_that_knows_the_answer_and_of_one_that_does_not():
    field = objective().eval()
    rows = [sequence(1), sequence(2)]
    found = measure_rendering(field, rows)
    assert found.views == 4 and found.patches == 16 and sum(found.wins.values()) == pytest.approx(1)
    assert found.wins["rendered"] < 0.5  # not trained
    maps = feature_maps(field, rows[0])
    similar = torch.nn.functional.cosine_similarity(maps["nearest view"], maps["true"], dim=-1).mean()
    assert maps["true"].shape == (2, 2, 2, 48) and -1 <= float(similar) <= 1
    context = field.base_features(batch_of([rows[0]]), torch.arange(2)).mean((0, 1))
    torch.testing.assert_close(maps["mean"][0, 0, 0], context)

    truth = field.render

    def knowing(batch, *, targets_only):
        from dataclasses import replace

        seen = truth(batch, targets_only=targets_only)
        return replace(seen, predicted=dict(seen.true), depths=seen.true_depths)

    field.render = knowing
    perfect = measure_rendering(field, rows)
    assert perfect.wins["rendered"] == 1 and perfect.cosine["rendered"] == pytest.approx(1)
    assert perfect.distance["rendered"] == 0 and perfect.depth_error == 0 and perfect.depth_guess_error > 0
    assert perfect.cosine["mean"] < 1 and perfect.loss == pytest.approx(0, abs=1e-5)
