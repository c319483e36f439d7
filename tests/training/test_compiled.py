from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from spatialboost.teachers.language import BoostConfig, boost_encoder
from spatialboost.training import fit
from spatialboost.training.compiled import compiled, repeated_blocks
from training_rows import build

STAGE = {"steps": 4, "batch_size": 4, "log_every": 1, "save_every": 2, "lr": 1e-3}


@pytest.fixture
def graphs(monkeypatch) -> list[torch.fx.GraphModule]:
    """The graphs that are compiled, by a backend that only traces them, forward and backward."""
    found: list[torch.fx.GraphModule] = []

    def trace(graph, _):
        found.append(graph)
        return make_boxed_func(graph)

    torch._dynamo.reset()
    monkeypatch.setattr(fit, "compiled", partial(compiled, backend=aot_autograd(fw_compiler=trace)))
    return found


def test_compiled_training_is_the_same_and_resumes(rows, tmp_path, graphs):
    runs = {}
    for name, keys in {"eager": {}, "compiled": {"compile": True}, "broken": {"compile": True}}.items():
        vlm, _, dataset = build(rows)
        if name == "broken":

            def stop(*_, calls=[]):  # noqa: B006
                calls.append(1)
                if len(calls) == 4:
                    raise InterruptedError

            hook = vlm.register_forward_pre_hook(stop)
            with pytest.raises(InterruptedError):
                boost_encoder(vlm, dataset, BoostConfig(**STAGE, **keys), folder=tmp_path / name)
            hook.remove()
        before = len(graphs)
        fitted = boost_encoder(vlm, dataset, BoostConfig(**STAGE, **keys), folder=tmp_path / name)
        assert (len(graphs) > before) == (name == "compiled")  # the graphs of "broken" are there already
        assert fitted.resumed_from == (2 if name == "broken" else 0)
        runs[name] = [entry["loss"] for entry in fitted.history], vlm.state_dict()
        assert all(block._compiled_call_impl is None for block in repeated_blocks(vlm))
    losses, state = runs["eager"]
    for other, weights in (runs["compiled"], runs["broken"]):
        assert other == pytest.approx(losses, abs=1e-5)
        assert weights.keys() == state.keys() and not [key for key in weights if "_orig_mod" in key]
        for key, value in state.items():
            torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5)


def test_blocks_of_encoder_and_language_model_are_found(parts):
    vlm, _, _ = parts
    layers = next(part for part in vlm.llm.modules() if isinstance(part, nn.ModuleList))
    assert set(repeated_blocks(vlm)) == {*vlm.encoder.blocks, *layers}
