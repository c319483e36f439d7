from __future__ import annotations

import torch

from spatialboost.multimodal import SceneAdapter


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_number_of_parameters_is_the_papers():
    with torch.device("meta"):
        adapter = SceneAdapter(2048, 768, 16, seed=None)
    attention = (adapter.attend_q, adapter.attend_k, adapter.attend_v, adapter.attend_o, adapter.norm_q, adapter.norm_k)
    parts = [
        count(adapter.lift),
        sum(map(count, attention)),
        count(adapter.narrow) + count(adapter.widen),
        count(adapter.opening),
    ]
    assert [round(n / 1e6, 2) for n in parts] == [5.77, 16.79, 2.1, 4.2]
    assert count(adapter) == 28_857_344


def test_it_adds_zero_at_the_start_and_not_after_a_step():
    adapter = SceneAdapter(32, 24, 4)
    tokens, latents = torch.randn(2, 7, 32), torch.randn(2, 5, 24)
    assert torch.equal(adapter(tokens, latents), tokens) and adapter.adds_zero()
    adapter(tokens, latents).square().sum().backward()
    got = {name for name, p in adapter.named_parameters() if p.grad is not None and p.grad.any()}
    assert got == {"widen.weight", "widen.bias"}  # the others follow once the last layer is not zero
    torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0).step()
    assert not adapter.adds_zero() and not torch.equal(adapter(tokens, latents), tokens)
    adapter.zero_grad()
    adapter(tokens, latents).square().sum().backward()
    # a bias of the keys moves all of a token's scores equally, but for the norm of the keys, which follows it
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_rows_do_not_see_each_other():
    adapter = SceneAdapter(32, 24, 4)
    torch.nn.init.normal_(adapter.widen.weight)
    tokens, latents = torch.randn(2, 7, 32), torch.randn(2, 5, 24)
    before = adapter(tokens, latents)
    tokens[1], latents[1] = 1.0, torch.randn(5, 24)
    after = adapter(tokens, latents)
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_the_order_of_latents_does_not_matter():
    """There is no positional encoding."""
    adapter = SceneAdapter(32, 24, 4).double()
    torch.nn.init.normal_(adapter.widen.weight)
    tokens, latents = torch.randn(1, 7, 32).double(), torch.randn(1, 9, 24).double()
    torch.testing.assert_close(adapter(tokens, latents.flip(1)), adapter(tokens, latents))


def test_a_half_precision_model_keeps_its_dtype():
    adapter = SceneAdapter(32, 24, 4)
    tokens = torch.randn(1, 3, 32).bfloat16()
    assert torch.equal(adapter(tokens, torch.randn(1, 5, 24).bfloat16()), tokens)


def test_heads_that_do_not_divide_the_width():
    assert SceneAdapter(40, 24, 16).heads == 8


def test_the_seed_decides_the_weights():
    a, b, c = (SceneAdapter(32, 24, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.attend_q.weight, b.attend_q.weight) and not torch.equal(a.attend_q.weight, c.attend_q.weight)
