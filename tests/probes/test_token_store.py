import pytest
import torch

from spatialboost.probes.token_store import TokenStore

BATCHES = torch.randn(7, 3, 5).split(2)


@pytest.mark.parametrize("limit", [10**6, 200, 0])
def test_tokens_come_back_in_any_order_from_memory_and_from_disk(limit: int) -> None:
    store = TokenStore(limit)
    for batch in BATCHES:
        store.append(batch)
    assert store.on_disk == (limit < 10**6) and len(store) == 7
    whole = torch.cat(BATCHES)
    for index in (6, 0, 3, 3, -1):
        assert torch.equal(store[index], whole[index])
    assert torch.equal(torch.stack(list(store)), whole)
    assert torch.equal(torch.stack(store[2:5]), whole[2:5])
    with pytest.raises(IndexError, match="view 7 of 7"):
        store[7]


def test_what_is_read_may_be_changed_without_changing_the_file() -> None:
    store = TokenStore(limit=0)
    store.append(BATCHES[0])
    store[0].zero_()
    assert torch.equal(store[0], BATCHES[0][0])


def test_tokens_of_any_type_become_float32() -> None:
    store = TokenStore()
    store.append(BATCHES[0].bfloat16())
    assert store[0].dtype == torch.float32
