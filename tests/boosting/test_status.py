"""The table of `status`."""

from __future__ import annotations

import io

from rich.console import Console
from torch import nn

import spatialboost as sb
from host_models import HOSTS, WIDTH, PlainAttention, Tower, timm_model


def test_status_prints_a_table():
    model = sb.boost(HOSTS["siglip"].make(), layers=[1])
    status = sb.status(model)
    (layer,) = status.layers
    assert (layer.index, layer.family, layer.kernel, layer.mean_gate) == (1, "transformers", "host", 0.5)
    assert layer.trainable == sum(p.numel() for _, p in sb.named_parameters(model)) == 4 * (WIDTH**2 + WIDTH) + WIDTH
    text = str(status)
    assert "encoder.layers.1.self_attn" in text and "head.attention" in text and "1 layers boosted, 4,256" in text


def test_status_prints_the_same_table_wherever_it_is_printed(monkeypatch):
    """Plain text, columns two spaces apart, no line broken by a narrow or coloured terminal."""
    model = nn.ModuleDict({"a_very_long_name_of_a_part_" * 4: Tower(PlainAttention)})
    sb.boost(model, layers=[1])
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    head, row, total, passed = str(sb.status(model)).splitlines()
    name = "a_very_long_name_of_a_part_" * 4 + ".blocks.1.attn"
    assert head == f"layer  {'name':{len(name)}}  family   kernel  runs  trainable  mean gate"
    assert row == f"    1  {name}  generic  host    yes       4,161     0.5000"
    assert total == "1 layers boosted, 4,161 trainable parameters"
    assert passed == f"passed over: {name.replace('1', '0')} (1 PlainAttention): not among `layers=`"


def test_status_is_drawn_by_rich():
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(status := sb.status(sb.boost(HOSTS["timm"].make())))
    drawn = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert drawn == str(status).splitlines() and len(drawn) == 4


def test_status_says_what_was_not_chosen():
    text = str(sb.status(sb.boost(timm_model("vit_tiny_patch16_224", depth=6), layers="blocks.3")))
    assert "passed over: blocks.0.attn, ..., blocks.5.attn (5 Attention): not among `layers=`" in text


def test_status_of_a_model_that_is_not_boosted():
    assert str(sb.status(HOSTS["timm"].make())).count("not boosted yet") == 1
