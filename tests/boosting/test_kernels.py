"""The kernels against one plain formula, and the choice among them."""

from __future__ import annotations

import pytest
import torch

import spatialboost as sb
from spatialboost.boosting import kernels, xformers_kernel
from spatialboost.boosting.kernels import Call, attend, choose_kernel
from spatialboost.boosting.xformers_kernel import aligned_bias, xformers_ops

HEADS, N = 2, 6


BLOCKS = {"packed": (2, 2, 1, 1), "packed_unequal": (1, 3, 2), "packed_one": (6,), "packed_empty": (0, 4, 0, 2)}


MASKS = ("none", "bool", "keys", "additive", "per_head", "per_head_unbatched", "causal")


KINDS = [*MASKS, *BLOCKS, "xformers_packed", "xformers_causal"]


def block_mask(lengths) -> torch.Tensor:
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return number[:, None] == number[None]


def mask_options(kind: str, batch: int) -> dict:
    """The arguments of `Call` for one kind of mask."""
    diagonal = torch.eye(N, dtype=torch.bool)
    return {
        "none": {},
        "bool": {"mask": torch.rand(batch, 1, N, N).gt(0.5) | diagonal},
        "keys": {"mask": torch.tensor([True] * (N - 2) + [False] * 2).expand(batch, 1, 1, N)},
        "additive": {"mask": torch.randn(1, 1, N, N, dtype=torch.float64)},
        "per_head": {"mask": torch.randn(batch, HEADS, N, N, dtype=torch.float64)},
        "per_head_unbatched": {"mask": torch.randn(HEADS, N, N, dtype=torch.float64)},
        "causal": {"causal": True},
        **{name: {"lengths": lengths} for name, lengths in BLOCKS.items()},
        "xformers_packed": {"mask": xformers_mask("BlockDiagonalMask", (1, 3, 2))},
        "xformers_causal": {"mask": xformers_mask("LowerTriangularMask")},
    }[kind]


def xformers_mask(name: str, lengths=None):
    if xformers_ops() is None:
        return None
    kind = getattr(xformers_ops().fmha.attn_bias, name)
    return kind() if lengths is None else kind.from_seqlens(list(lengths))


def formula(q, k, v, kind: str, mask) -> torch.Tensor:
    scores = 0.3 * torch.einsum("bhqc,bhkc->bhqk", q, k)
    if kind in ("causal", "xformers_causal"):
        mask = torch.ones(N, N, dtype=torch.bool).tril()
    elif kind in BLOCKS or kind == "xformers_packed":
        mask = block_mask(BLOCKS.get(kind, (1, 3, 2)))
    elif mask is not None and mask.dim() > 2 and mask.shape[-3] == HEADS:
        mask = mask.repeat(*[1] * (mask.dim() - 3), 2, 1, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("kernel", ["sdpa", "math", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_agree(kernel, kind):
    batch = 1 if "packed" in kind else 2
    if kind.startswith("xformers") and xformers_ops() is None:
        pytest.skip("xformers is not installed")
    options = mask_options(kind, batch)
    q, k, v = (t.requires_grad_() for t in torch.randn(3, batch, N, 2 * HEADS, 8, dtype=torch.float64).unbind())
    heads_first = [t.transpose(1, 2) for t in (q, k, v)]
    found = attend(*heads_first, Call(heads=HEADS, scale=0.3, kernel=kernel, **options))
    expected = formula(*heads_first, kind, options.get("mask"))
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad((o * weight).sum(), (q, k, v)) for o in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_reaches_the_kernel():
    q = torch.randn(1, 2, N, 8)
    for kernel in ("sdpa", "math"):
        assert attend(q, q, q, Call(heads=1, scale=1.0, kernel=kernel, dropout=1.0)).abs().max() == 0


def test_packed_lengths_have_to_sum_up():
    q = torch.randn(1, 2, N, 8)
    with pytest.raises(sb.SpatialBoostError, match="have 5 tokens in total; expected 6"):
        attend(q, q, q, Call(heads=1, scale=1.0, kernel="sdpa", lengths=(2, 3)))


def test_packed_sequences_compile_in_one_graph():
    def run(q: torch.Tensor) -> torch.Tensor:
        return attend(q, q, q, Call(heads=HEADS, scale=0.3, kernel="auto", lengths=(2, 2, 1, 1)))

    torch._dynamo.reset()
    q = torch.randn(1, 2 * HEADS, N, 8)
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="eager")(q), run(q))


def test_choice_of_kernel():
    q = torch.randn(1, 4, 5, 8)
    assert choose_kernel("auto", q) == "sdpa"
    assert choose_kernel("auto", q, plain_formula=True) == "math"  # the host asks for the plain formula
    assert choose_kernel("math", q) == "math"
    message = r"xformers has no operator for \(1, 4, 5, 8\) torch.float32 on cpu: it has none for the CPU.*'auto'"
    with pytest.raises(sb.SpatialBoostError, match=message):
        choose_kernel("xformers", q)


@pytest.fixture
def able(monkeypatch):
    """Let xformers report its operators for the CPU, with its own rules on dtype, shape and bias."""
    if (ops := xformers_ops()) is None:
        pytest.skip("xformers is not installed")
    for op in (*ops.fmha.ALL_FW_OPS, *ops.fmha.ALL_BW_OPS):
        monkeypatch.setattr(op, "SUPPORTED_DEVICES", {"cpu"})
    monkeypatch.setattr(xformers_kernel, "WITHOUT_OPERATOR", ())
    monkeypatch.setattr(kernels, "XFORMERS_IS_FASTER", {"cpu"})
    return ops


@pytest.mark.parametrize(
    ("shape", "dtype", "mask", "dropout", "expected"),
    [
        ((2, 4, 197, 64), torch.float32, None, 0.0, "xformers"),
        ((2, 4, 197, 64), torch.float16, None, 0.1, "xformers"),
        ((2, 4, 197, 64), torch.float64, None, 0.0, "sdpa"),
        ((2, 4, 6, 64), torch.float32, torch.ones(2, 1, 6, 6, dtype=torch.bool), 0.0, "xformers"),
    ],
)
def test_xformers_is_taken_where_it_has_an_operator(able, shape, dtype, mask, dropout, expected):
    q = torch.empty(shape, dtype=dtype, requires_grad=True)
    bias = None if mask is None else aligned_bias(q, mask)
    assert choose_kernel("auto", q, bias=bias, dropout=dropout) == expected


def test_auto_prefers_sdpa_where_nothing_was_measured(able, monkeypatch):
    q = torch.empty(2, 4, 197, 64)
    assert choose_kernel("xformers", q) == "xformers"  # xformers has an operator
    monkeypatch.setattr(kernels, "XFORMERS_IS_FASTER", {"cuda"})
    assert choose_kernel("auto", q) == "sdpa"
    monkeypatch.undo()
    assert not kernels.XFORMERS_IS_FASTER


def test_sdpa_says_which_backend_it_takes():
    q = torch.zeros(1, 4, 5, 8)
    assert kernels.sdpa_backend(q) in ("flash_attention", "math")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert kernels.sdpa_backend(q) == "math"


def test_xformers_says_why_not(able):
    q = torch.empty(1, 2, 6, 64)
    misaligned = torch.zeros(1, 2, 6, 6)
    assert choose_kernel("auto", q, bias=misaligned) == "sdpa"
    with pytest.raises(sb.SpatialBoostError, match=r"with a bias \(Tensor\): no forward .*attn_bias.stride"):
        choose_kernel("xformers", q, bias=misaligned)


@pytest.mark.parametrize("kind", KINDS)
def test_what_xformers_would_be_given(able, monkeypatch, kind):
    """The arguments of the operator, which cannot run on this machine; its bias must equal the mask."""
    given = []

    def operator(q, k, v, bias, p, scale):
        given.append(bias)
        return v

    monkeypatch.setattr(able, "memory_efficient_attention", operator)
    batch = 1 if "packed" in kind else 2
    q = torch.randn(batch, 2 * HEADS, N, 8)
    options = mask_options(kind, batch)
    if isinstance(options.get("mask"), torch.Tensor) and options["mask"].is_floating_point():
        options = {"mask": options["mask"].float()}
    attend(q, q, q, Call(heads=HEADS, scale=0.3, kernel="auto", **options))
    (bias,) = given
    if kind == "none":
        assert bias is None
        return
    dense = bias if isinstance(bias, torch.Tensor) else bias.materialize((batch, 2 * HEADS, N, N))
    weights = formula(q, q, torch.eye(N).expand(batch, 2 * HEADS, N, N), kind, options.get("mask"))
    scores = 0.3 * q @ q.transpose(-1, -2) + dense
    torch.testing.assert_close(scores.softmax(-1), weights)
