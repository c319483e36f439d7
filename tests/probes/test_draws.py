import numpy as np

from spatialboost.probes.draws import draw_for_seeds, draw_items, take_all


def test_a_seed_always_draws_the_same_share_and_seeds_differ() -> None:
    first, second = draw_for_seeds(20, (0, 1), subset=0.8)
    assert len(first.items) == len(second.items) == 16 and (first.seed, second.seed) == (0, 1)
    assert first.items.tolist() == draw_items(20, 0, 0.8).items.tolist() != second.items.tolist()
    assert (np.diff(first.items) > 0).all()
    assert len(draw_items(20, 0, 0.01).items) == 2  # never fewer


def test_draws_stay_what_they_were() -> None:
    """Figures of earlier versions compare with today's only as long as seeds draw the same items."""
    assert draw_items(10, 0, 0.5).items.tolist() == [2, 3, 4, 6, 7]
    assert draw_items(10, 3, 0.5).items.tolist() == [0, 1, 2, 6, 9]


def test_folds_are_neighbours_and_hold_every_item_once() -> None:
    draw = take_all(7)
    folds = draw.folds(3)
    assert [fold.tolist() for fold in folds] == [[0, 1, 2], [3, 4], [5, 6]] and draw.seed is None
    assert len(take_all(2).folds(5)) == 2
