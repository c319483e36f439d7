"""A missing, broken or incomplete xformers; the masks that it accepts."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from operator import attrgetter
from types import ModuleType, SimpleNamespace

import pytest
import torch

import spatialboost as sb
from host_models import HOSTS, images, output
from spatialboost.boosting import kernels, xformers_kernel
from spatialboost.boosting.kernels import Call, attend
from spatialboost.boosting.xformers_kernel import aligned_bias, from_xformers, load_xformers, xformers_ops

HEADS, N = 2, 6


def test_masks_of_unknown_types_are_refused():
    with pytest.raises(sb.SpatialBoostError, match="the attention mask is a str; expected a tensor or"):
        from_xformers("causal", torch.randn(1, 2, N, 8))


def test_aligned_bias_is_the_mask_added():
    q = torch.randn(2, 4, N, 8)
    mask = torch.rand(2, 1, N, N) > 0.5
    bias = aligned_bias(q, mask)
    assert bias.shape == (2, 4, N, N) and bias.stride()[1:3] == (0, 8) and bias.stride(3) == 1
    assert torch.equal(bias == 0, mask.expand_as(bias)) and torch.equal(bias.isinf(), ~mask.expand_as(bias))
    learned = torch.randn(1, 1, N, N, requires_grad=True)
    aligned_bias(q, learned).sum().backward()
    assert torch.equal(learned.grad, torch.full_like(learned, 8.0))


class Failing(MetaPathFinder):
    """An importer that finds xformers and fails to load it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "xformers" and self.error is not None:
            raise self.error


def complete() -> SimpleNamespace:
    """The parts of `xformers.ops` that are used."""
    bias = SimpleNamespace(BlockDiagonalMask=object, LowerTriangularMask=object)
    fmha = SimpleNamespace(Inputs=object, ALL_FW_OPS=[object], ALL_BW_OPS=[object], attn_bias=bias)
    return SimpleNamespace(memory_efficient_attention=print, fmha=fmha)


def installed(monkeypatch, ops: object, error: Exception | None = None) -> None:
    """Replace xformers by this module until the end of the test."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "xformers"]:
        monkeypatch.delitem(sys.modules, name)
    if error is None:
        package = ModuleType("xformers")
        package.ops = ops
        monkeypatch.setitem(sys.modules, "xformers", package)
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(sys, "meta_path", [Failing(error), *sys.meta_path])
    load_xformers.cache_clear()


@pytest.fixture
def clear_xformers():
    """Clear the cached result of `load_xformers` after a test."""
    yield
    load_xformers.cache_clear()


def without(path: str) -> SimpleNamespace:
    ops = complete()
    owner, _, name = path.rpartition(".")
    delattr(attrgetter(owner)(ops) if owner else ops, name)
    return ops


def emptied(path: str, value: object) -> SimpleNamespace:
    ops = complete()
    owner, _, name = path.rpartition(".")
    setattr(attrgetter(owner)(ops) if owner else ops, name, value)
    return ops


BROKEN = {
    "missing": (None, ModuleNotFoundError("No module named 'xformers'", name="xformers"), "it is not installed"),
    "its own import is missing": (
        None,
        ModuleNotFoundError("No module named 'triton'", name="triton"),
        r"does not load with torch 2\..*No module named 'triton'",
    ),
    "broken library": (None, OSError("undefined symbol: _ZN3c10"), "does not load with torch .*OSError: undefined sym"),
    "broken code": (None, AttributeError("module 'torch' has no"), "does not load with torch .*AttributeError"),
    "empty": (ModuleType("xformers.ops"), None, "incomplete: xformers.ops lacks memory_efficient_attention, fmha"),
    "fmha is None": (emptied("fmha", None), None, "lacks fmha.Inputs, fmha.ALL_FW_OPS"),
    "no operators": (emptied("fmha.ALL_FW_OPS", []), None, "lacks any operator in fmha.ALL_FW_OPS"),
    **{
        path: (without(path), None, rf"incomplete: xformers.ops lacks {path}")
        for path in ("memory_efficient_attention", "fmha", "fmha.Inputs", "fmha.ALL_BW_OPS", "fmha.attn_bias")
    },
    "no bias of blocks": (without("fmha.attn_bias.BlockDiagonalMask"), None, "lacks fmha.attn_bias.BlockDiagonalMask"),
}


@pytest.mark.parametrize(("ops", "error", "why"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("device_has_operators", [False, True], ids=["cpu", "like_cuda"])
def test_a_broken_xformers_breaks_nothing(monkeypatch, clear_xformers, ops, error, why, device_has_operators):
    installed(monkeypatch, ops, error)
    if device_has_operators:
        monkeypatch.setattr(xformers_kernel, "WITHOUT_OPERATOR", ())
        monkeypatch.setattr(kernels, "XFORMERS_IS_FASTER", {"cpu"})
    assert xformers_ops() is None
    model = sb.set_kernel(sb.boost(HOSTS["timm"].make()), "auto")
    assert [layer.kernel for layer in sb.status(model).layers] == ["sdpa", "sdpa"]
    assert output(model, images()).isfinite().all()
    mask = torch.ones(1, 1, N, N, dtype=torch.bool)
    q = torch.randn(1, 2 * HEADS, N, 8)
    for options in ({"mask": mask}, {"lengths": (2, 4)}, {"causal": True}):
        attend(q, q, q, Call(heads=HEADS, scale=0.3, kernel="auto", **options))
    with pytest.raises(sb.SpatialBoostError, match=f"kernel='xformers' has no operator here: .*{why}"):
        sb.set_kernel(model, "xformers")
    assert [layer.kernel for layer in sb.status(model).layers] == ["sdpa", "sdpa"]


def test_a_complete_xformers_is_taken(monkeypatch, clear_xformers):
    ops = complete()
    installed(monkeypatch, ops)
    assert xformers_ops() is ops
    with pytest.raises(sb.SpatialBoostError, match="has no operator here: the model is on cpu"):
        sb.set_kernel(sb.boost(HOSTS["timm"].make()), "xformers")
