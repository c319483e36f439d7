from __future__ import annotations

import logging

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import spatialboost as sb
from spatialboost.teachers.language import BoostConfig
from spatialboost.teachers.language.teacher import LanguageTeacher
from spatialboost.training.optimizers import build_optimizer
from spatialboost.training.pace import Pace, gate_shares, progress_words
from spatialboost.training.parts import count_parts, count_tokens, moved_line, part_names, tokens_of_a_row
from spatialboost.training.stage import train_stage
from training_rows import SHAPE


def test_parts_hold_every_parameter_once(parts):
    vlm, tokenizer, dataset = parts
    teacher = LanguageTeacher(vlm, tokenizer, dataset.images.num_tokens)
    sb.boost(vlm.encoder)
    teacher.objective.requires_grad_(False)
    for _, parameter in sb.named_parameters(vlm.encoder):
        parameter.requires_grad_(True)
    groups = [{"params": [p for _, p in sb.named_parameters(vlm.encoder)], "lr": 1e-3}]
    found = {part.name: part for part in count_parts(teacher.objective, groups)}
    assert set(found) == {"encoder base", "Attn+", "gates", "language model", "projector"}
    assert sum(part.parameters for part in found.values()) == sum(p.numel() for p in teacher.objective.parameters())
    assert found["gates"].parameters == found["gates"].trained == 2 * SHAPE["embed_dim"]
    assert [name for name, part in found.items() if part.trained] == ["Attn+", "gates"]
    assert found["encoder base"].gradients == found["encoder base"].states == 0


@pytest.mark.parametrize("muon", [False, True])
def test_bytes_are_those_that_the_optimiser_holds(muon):
    model = nn.ModuleDict({"encoder": nn.Linear(8, 8), "head": nn.Linear(8, 2).bfloat16()})
    groups = [{"params": [model["encoder"].weight], "lr": 0.1, "muon": muon}]
    groups += [{"params": [model["encoder"].bias, *model["head"].parameters()], "lr": 0.1}]
    expected = count_parts(model, groups)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer(groups, beta2=0.9, fused=False)
    optimizer.step()
    states = [part.state for part in (optimizer.parts if muon else [optimizer])]
    held = sum(v.nbytes for state in states for each in state.values() for k, v in each.items() if k != "step")
    assert sum(part.states for part in expected) == held
    assert sum(part.gradients for part in expected) == sum(p.grad.nbytes for p in model.parameters())
    assert [part.dtypes for part in expected] == ["float32", "bfloat16"]


def test_tokens_of_a_batch_are_those_of_its_masks(parts):
    _, tokenizer, dataset = parts
    from spatialboost.vlm.collate import Collator

    examples = [dataset[i] for i in range(3)]
    batch = Collator(tokenizer.pad_token_id)(
        [{k: v for k, v in each.items() if k not in ("pixel_values", "row")} for each in examples]
    )
    found = {kind: int(number) for kind, number in count_tokens(batch).items()}
    assert found["visual"] == 3 * dataset.images.num_tokens
    assert found["visual"] + found["text"] == sum(len(each["input_ids"]) for each in examples)
    assert found["answer"] == sum(int((each["labels"] >= 0).sum()) for each in examples)
    mean = tokens_of_a_row(dataset)
    assert mean["visual"] == dataset.images.num_tokens and 0 < mean["answer"] < mean["text"]


def test_a_stage_says_what_trains_and_what_has_moved(parts, tmp_path, caplog):
    vlm, tokenizer, dataset = parts
    teacher = LanguageTeacher(vlm, tokenizer, dataset.images.num_tokens)
    stage = BoostConfig(steps=4, batch_size=4, lr=1e-2, log_every=2, save_every=0)
    with caplog.at_level(logging.INFO, "spatialboost"):
        fitted = train_stage(teacher, "stage3", stage, dataset, folder=tmp_path, device="cpu")
    told = "\n".join(record.message for record in caplog.records)
    assert "What stage3 trains" in told and "boosted layers: 0-1 (2)" in told
    assert "24 rows, 4 steps of 4 rows (4 in a pass x 1 passes x 1 processes)" in told
    assert "after step 2, checked bit by bit: moved: Attn+ (8 tensors), gates (2); unchanged: encoder base (30)" in told
    assert fitted.moved in told and [part["name"] for part in fitted.parts if part["trained"]] == ["Attn+", "gates"]
    assert "stage3 step 4 of 4: loss" in told  # no terminal: lines in place of the bar
    last = fitted.history[-1]
    shares = [1 - channel["mean"] for channel in _gates(vlm.encoder)]
    assert last["attn_plus"] == pytest.approx(sum(shares) / 2, abs=1e-5) and last["attn_plus"] != 0.5
    assert last["attn_plus_layers_0"] == pytest.approx(shares[0], abs=1e-5)
    assert last["seconds_left"] == 0 and last["steps_per_second"] > 0 and last["memory_gb"] > 0.1
    ratio = last["visual_tokens_per_second"] / last["steps_per_second"]
    assert ratio == pytest.approx(4 * dataset.images.num_tokens, rel=1e-3)


def _gates(encoder):
    from spatialboost.training.report import gates_per_layer

    return gates_per_layer(encoder)


def test_what_did_not_move_is_told():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    names = part_names(model)
    assert moved_line(names, {"0.weight", "0.bias"}, 1).endswith("moved: 0 (2 tensors); unchanged: 1 (2)")
    assert moved_line(names, set(), 2).endswith("moved: nothing; unchanged: 0 (2), 1 (2)")


def test_ranges_of_layers_cover_all_layers():
    for depth in (1, 2, 3, 7, 12):
        encoder = sb.boost(VisionTransformer(**{**SHAPE, "depth": depth}))
        found = gate_shares(encoder)
        assert len(found) == 1 + min(3, depth) and set(found.values()) == {0.5}
        spans = [[int(n) for n in name.split("layers_")[1].split("_")] for name in found if "layers" in name]
        assert sorted(n for span in spans for n in range(span[0], span[-1] + 1)) == list(range(depth))


def test_pace_counts_since_the_last_entry():
    pace = Pace(nn.Linear(1, 1), torch.device("cpu"), processes=2)
    for _ in range(3):
        pace.count({"pixel_values": torch.zeros(5, 3, 2, 2)})
    first = pace.entry(step=3, steps=9)
    assert first["images_per_second"] / first["steps_per_second"] == pytest.approx(2 * 5, rel=1e-3)
    assert first["seconds_left"] * first["steps_per_second"] == pytest.approx(6, rel=1e-3)
    assert "images_per_second" not in pace.entry(step=4, steps=9)
    assert progress_words(first)["images/s"]
