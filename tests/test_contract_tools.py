"""What other tools do with a boosted model, for every family: compile, export, LoRA."""

from __future__ import annotations

import pytest
import torch

import spatialboost as sb
from host_models import HOSTS, OLD_TRANSFORMERS, Host, output, perturb
from spatialboost.boosting.channel import CHANNEL


@pytest.mark.parametrize(
    "host", [h for h in HOSTS.values() if h.compiles], ids=[k for k, h in HOSTS.items() if h.compiles]
)
def test_compiles_in_one_graph(host: Host):
    if OLD_TRANSFORMERS and host is HOSTS["siglip2"]:
        pytest.skip("SigLIP 2 of transformers before 5.18 loops over the values of a tensor, on which a graph breaks")
    model, inputs = perturb(sb.boost(host.make())), host.inputs()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(output(compiled, inputs), output(model, inputs))


def test_compiled_graph_does_not_go_stale():
    model, inputs = HOSTS["timm"].make(), HOSTS["timm"].inputs()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        before = output(compiled, inputs)
        boosted = output(perturb(sb.boost(compiled)), inputs)
        assert not torch.allclose(before, boosted, atol=1e-3)
        torch.testing.assert_close(output(model, inputs), boosted)
        with sb.disabled(compiled):
            torch.testing.assert_close(output(compiled, inputs), before)
        torch.testing.assert_close(output(compiled, inputs), boosted)
        torch.testing.assert_close(output(sb.unboost(compiled), inputs), before)


@pytest.mark.parametrize(
    "host", [h for h in HOSTS.values() if h.exports], ids=[k for k, h in HOSTS.items() if h.exports]
)
def test_exports(host: Host):
    model, inputs = perturb(sb.boost(host.make())), host.inputs()
    if OLD_TRANSFORMERS and host is HOSTS["siglip2"]:
        pytest.skip("SigLIP 2 of transformers before 5.18 loops over the values of a tensor, which does not export")
    with torch.no_grad():
        if set(inputs) == {"x"}:
            program = torch.export.export(model, tuple(inputs.values()))
        else:
            program = torch.export.export(model, (), inputs)
        torch.testing.assert_close(output(program.module(), inputs), output(model, inputs))


@pytest.mark.parametrize(
    "host", [h for h in HOSTS.values() if h.linears], ids=[k for k, h in HOSTS.items() if h.linears]
)
def test_lora_on_top_leaves_the_channel_alone(host: Host):
    peft = pytest.importorskip("peft")
    model, inputs = perturb(sb.boost(host.make())), host.inputs()
    with torch.no_grad():
        before = output(model, inputs)
    config = peft.LoraConfig(target_modules=list(host.linears), init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, model)
    lora = [name for name, _ in adapted.named_modules() if name.endswith(("lora_A", "lora_B"))]
    assert lora and not any(CHANNEL in name for name in lora)
    with torch.no_grad():
        changed = output(adapted, inputs)
        assert not torch.allclose(changed, before, atol=1e-4)
        # merged into the base, LoRA has to mean what it meant unmerged: so it acts on the base channel alone
        for module in adapted.modules():
            if hasattr(module, "lora_A"):
                module.merge()
        torch.testing.assert_close(output(adapted, inputs), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "host", [h for h in HOSTS.values() if h.linears], ids=[k for k, h in HOSTS.items() if h.linears]
)
def test_boost_on_top_of_lora(host: Host):
    peft = pytest.importorskip("peft")
    model, inputs = host.make(), host.inputs()
    config = peft.LoraConfig(target_modules=list(host.linears), init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    with torch.no_grad():
        before = output(model, inputs)
        sb.boost(model)
        # Attn+ starts from W + BA in one matrix: equal to rounding, not to the bit
        torch.testing.assert_close(output(model, inputs), before, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in sb.named_parameters(model))
