import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.probes.encoder_facts import encoder_facts


def tiny_vit(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)


def test_one_changed_weight_is_another_encoder_and_boosting_is_not() -> None:
    encoder = tiny_vit()
    before = encoder_facts(encoder)
    assert before["weights"] == encoder_facts(tiny_vit())["weights"] != encoder_facts(tiny_vit(1))["weights"]
    boosted = encoder_facts(sb.boost(encoder))
    assert boosted["weights"] == before["weights"] and boosted["fingerprint"] == before["fingerprint"]
    assert before["boosted"] == [] and boosted["boosted"] == [0, 1]
    with torch.no_grad():
        encoder.norm.bias[0] += 1e-3  # not a part of the fingerprint
    after = encoder_facts(encoder)
    assert after["weights"] != before["weights"] and after["fingerprint"] == before["fingerprint"]
    assert after["delta"] == boosted["delta"]


def test_a_changed_gate_is_another_delta() -> None:
    encoder = sb.boost(tiny_vit())
    before = encoder_facts(encoder)
    with torch.no_grad():
        next(p for name, p in sb.named_parameters(encoder) if name.endswith("gate"))[3] = 0.1
    assert encoder_facts(encoder)["delta"] != before["delta"]
    with sb.disabled(encoder):
        assert "delta" not in encoder_facts(encoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    facts = encoder_facts(sb.boost(tiny_vit().to(dtype)))
    assert facts["dtype"] == str(dtype).removeprefix("torch.") and facts["weights"] and facts["delta"]
