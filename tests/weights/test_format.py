"""The names of a delta's files and the checksum over all of them."""

from __future__ import annotations

import torch

from spatialboost.weights.format import delta_checksum, parse_index, shard_names
from spatialboost.weights.tensor_file import Entry


def test_the_checksum_of_a_delta_covers_names_values_and_config():
    one = delta_checksum({"a": "1", "b": "2"}, {"width": 3, "depth": 2})
    assert delta_checksum({"b": "2", "a": "1"}, {"depth": 2, "width": 3, "checksum": one}) == one
    assert delta_checksum({"a": "2", "b": "1"}, {"width": 3, "depth": 2}) != one
    assert delta_checksum({"a": "1", "b": "2"}, {"width": 3, "depth": 4}) != one


def test_shards_of_other_content_have_other_names(tmp_path):
    """Weights (by their checksum), config and division into shards all count."""
    entries = {str(i): Entry(torch.float32, (4,)) for i in range(4)}
    halves = [{"0": entries["0"], "1": entries["1"]}, {"2": entries["2"], "3": entries["3"]}]
    uneven = [{"0": entries["0"]}, {key: entries[key] for key in "123"}]
    config = {"checksum": "a" * 16, "training": {"steps": 3}}
    names = [
        shard_names(config, halves),
        shard_names(config, uneven),
        shard_names(config | {"checksum": "b" * 16}, halves),
        shard_names(config | {"training": {"steps": 4}}, halves),
    ]
    assert len({name for pair in names for name in pair}) == 8
    index = '{"weight_map": {"0": "%s", "3": "%s", "1": "%s"}}' % (*names[0], names[0][0])  # noqa: UP031
    assert parse_index(index.encode(), tmp_path) == names[0]
