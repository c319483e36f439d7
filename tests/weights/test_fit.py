"""Which models take a delta, where its values end, and which models refuse it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import spatialboost as sb
from deltas import WEIGHTS, refused, save_tiny
from host_models import HOSTS, images, output, perturb, timm_model
from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.find import tower
from spatialboost.weights.fingerprint import fingerprint, same_base


@pytest.fixture
def saved(tmp_path):
    return save_tiny(tmp_path / "delta")


def values(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for _, p in sb.named_parameters(model)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_fingerprint_knows_a_base_in_another_precision():
    own = fingerprint(tower(HOSTS["timm"].make()))
    for dtype in (torch.bfloat16, torch.float16):
        assert same_base(own, fingerprint(tower(HOSTS["timm"].make().to(dtype)))) is None
    assert same_base(own, fingerprint(tower(HOSTS["timm"].make(seed=1)))) == "layers.0.q.weight"
    boosted = perturb(sb.boost(HOSTS["timm"].make()))
    assert fingerprint(tower(boosted)) == own


def test_loads_onto_a_boosted_model_in_place(saved):
    model = perturb(sb.boost(HOSTS["timm"].make()), seed=7)
    parameters = [p for _, p in sb.named_parameters(model)]
    assert sb.load_pretrained(model, saved) is model
    assert all(a is b for a, (_, b) in zip(parameters, sb.named_parameters(model), strict=True))
    tensors = load_file(saved / WEIGHTS)
    assert torch.equal(boosted_layers(model)[0][2].plus("qkv.weight").chunk(3)[1], tensors["layers.0.k.weight"])


def test_two_deltas_are_swapped_in_place(saved, tmp_path):
    other, inputs = save_tiny(tmp_path / "other", seed=9), images()
    model = sb.load_pretrained(HOSTS["timm"].make(), saved)
    run = torch.compile(model, backend="eager")
    seen = []
    with torch.no_grad():
        for folder in (saved, other, saved):
            sb.load_pretrained(model, folder)
            alone = sb.load_pretrained(HOSTS["timm"].make(), folder)
            seen.append(output(run, inputs))
            assert torch.equal(seen[-1], output(alone, inputs))
            with sb.disabled(model):
                assert torch.equal(output(model, inputs), output(HOSTS["timm"].make(), inputs))
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])


def test_partial_boost(tmp_path):
    model, inputs = perturb(sb.boost(HOSTS["dinov3"].make(), layers=[1])), images()
    sb.save_pretrained(model, tmp_path)
    other = sb.load_pretrained(HOSTS["dinov3"].make(), tmp_path)
    assert [layer.index for layer in sb.status(other).layers] == [1]
    with torch.no_grad():
        assert torch.equal(output(other, inputs), output(model, inputs))


def test_compiled_models(saved, tmp_path):
    model = sb.load_pretrained(torch.compile(HOSTS["timm"].make(), backend="eager"), saved)
    again = sb.save_pretrained(model, tmp_path / "again")
    assert (again / WEIGHTS).read_bytes() == (save_tiny(tmp_path / "x", training={}) / WEIGHTS).read_bytes()


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_dtype_of_the_target(saved, base, dtype):
    model = sb.load_pretrained(HOSTS["timm"].make().to(base), saved, dtype=dtype)
    expected = values(perturb(sb.boost(HOSTS["timm"].make())))
    target = dtype or torch.float32
    for found, wanted in zip(values(model), expected, strict=True):
        assert torch.equal(found, wanted.to(found.dtype))
    assert {p.dtype for name, p in sb.named_parameters(model) if not name.endswith("gate")} == {target}


def test_freeze(saved):
    frozen, free = (sb.load_pretrained(HOSTS["timm"].make(), saved, freeze=freeze) for freeze in (True, False))
    assert {n for n, p in frozen.named_parameters() if p.requires_grad} == {n for n, _ in sb.named_parameters(frozen)}
    assert all(p.requires_grad for p in free.parameters())


# --- the meta device


def meta_model() -> nn.Module:
    with torch.device("meta"):
        return HOSTS["timm"].build()


def test_attn_plus_gets_values_on_a_meta_model(saved, caplog):
    model = sb.load_pretrained(meta_model(), saved, device="cpu")
    assert same(values(model), values(perturb(sb.boost(HOSTS["timm"].make()))))
    assert {p.device.type for p in model.parameters()} == {"meta", "cpu"}
    assert "cannot be checked" in caplog.text
    base = HOSTS["timm"].make()
    model.load_state_dict(base.state_dict(), strict=False, assign=True)
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    sb.load_pretrained(model, saved)  # now the base is checked
    with torch.no_grad():
        expected = output(sb.load_pretrained(base, saved), images())
        assert torch.equal(output(model.eval(), images()), expected)


def test_attn_plus_of_a_boosted_meta_model_whose_base_is_there(saved):
    model = sb.boost(meta_model())
    model.load_state_dict(HOSTS["timm"].make().state_dict(), strict=False, assign=True)
    sb.load_pretrained(model.eval(), saved)
    assert same(values(model), values(perturb(sb.boost(HOSTS["timm"].make()))))


def test_meta_models_without_a_device(saved):
    model = meta_model()
    with pytest.raises(sb.SpatialBoostError, match=r"meta device.*or give `device`"):
        sb.load_pretrained(model, saved)
    assert not boosted_layers(model)
    with pytest.raises(sb.SpatialBoostError, match="no values to save"):
        sb.save_pretrained(sb.boost(model), saved)


def test_a_device_for_a_model_that_has_one(saved):
    refused(saved, "device='meta' is for a model on the meta device", device="meta")


# --- refused


def test_other_width(saved):
    refused(saved, "of width 32; VisionTransformer has width 64", timm_model("vit_tiny_patch16_224", embed_dim=64))


def test_other_base_of_the_same_width(saved):
    refused(saved, "trained on other weights than these", HOSTS["timm"].make(seed=5))


def test_boosted_elsewhere(saved):
    refused(saved, r"boosted at layers \[1\].*unboost", sb.boost(HOSTS["timm"].make(), layers=[1]))
    refused(saved, r"gate='scalar'.*unboost", sb.boost(HOSTS["timm"].make(), gate="scalar"))


def test_no_attention(saved):
    refused(saved, "no self-attention layer found", nn.Linear(3, 3))


def test_another_kind_of_host(saved):
    model = HOSTS["generic"].make()
    refused(saved, r"missing: layers.0.generic", model)
