from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

import spatialboost as sb
from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_image
from spatialboost.teachers.language import (
    AlignConfig,
    BoostConfig,
    ChatDataset,
    InstructConfig,
    align,
    boost_encoder,
    instruct,
)
from spatialboost.training import RowImages
from spatialboost.vlm import SpatialVLM
from training_rows import build, make_rows

QUICK = {"steps": 3, "batch_size": 4, "save_every": 0, "log_every": 1, "lr": 1e-3}


def snapshot(vlm: SpatialVLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vlm.named_parameters()}


def parts_that_moved(before: dict[str, torch.Tensor], vlm: SpatialVLM) -> set[str]:
    return {
        name.partition(".")[0]
        for name, p in vlm.named_parameters()
        if name in before and not torch.equal(before[name], p)
    }


def test_align_trains_the_projector(parts, tmp_path):
    vlm, _, dataset = parts
    before = snapshot(vlm)
    fitted = align(vlm, dataset, AlignConfig(**QUICK), folder=tmp_path)
    assert parts_that_moved(before, vlm) == {"projector"} and fitted.steps == 3


def test_instruct_trains_projector_and_language_model(parts, tmp_path):
    vlm, _, dataset = parts
    before = snapshot(vlm)
    instruct(vlm, dataset, InstructConfig(**QUICK), folder=tmp_path)
    assert parts_that_moved(before, vlm) == {"projector", "llm"}
    still = {n for n, p in vlm.named_parameters() if torch.equal(before[n], p)}
    assert all(name.startswith("encoder.") for name in still)


def test_the_frozen_encoder_is_run_once(parts, tmp_path):
    vlm, _, dataset = parts
    seen = []
    vlm.encoder.patch_embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    align(vlm, dataset, AlignConfig(**{**QUICK, "steps": 20}), folder=tmp_path / "1")
    instruct(vlm, dataset, InstructConfig(**QUICK), folder=tmp_path / "2")
    assert sum(seen) == len(dataset)


SAME_WEIGHTS = {  # what leaves a new projector as random as it was
    "new": lambda vlm: vlm,
    "copied": copy.deepcopy,
    "a half is zero": lambda vlm: torch.nn.init.zeros_(vlm.projector[-1].weight) is None or vlm,
    "bfloat16": lambda vlm: vlm.projector.to(torch.bfloat16) is None or vlm,
}


@pytest.mark.parametrize("case", SAME_WEIGHTS)
def test_a_new_projector_that_stays_frozen_is_refused(parts, tmp_path, case):
    vlm, _, dataset = parts
    new = SAME_WEIGHTS[case](SpatialVLM(vlm.encoder, vlm.llm))
    with pytest.raises(SpatialBoostError, match=r"stage3 would train through vlm.projector with its first, random"):
        boost_encoder(new, dataset, BoostConfig(**QUICK), folder=tmp_path)
    assert not sb.status(new.encoder).layers and not list(tmp_path.iterdir())


OTHER_WEIGHTS = {
    "loaded": lambda new, vlm: new.projector.load_state_dict(vlm.projector.state_dict()),
    "assigned": lambda new, vlm: new.projector.load_state_dict(vlm.projector.state_dict(), assign=True),
    "written into": lambda new, vlm: [
        p.data.copy_(q) for p, q in zip(new.projector.parameters(), vlm.projector.parameters(), strict=True)
    ],
    "replaced": lambda new, vlm: setattr(new, "projector", vlm.projector),
}


@pytest.mark.parametrize("case", OTHER_WEIGHTS)
def test_a_projector_with_weights_from_elsewhere_may_stay_frozen(parts, tmp_path, case):
    vlm, _, dataset = parts
    new = SpatialVLM(vlm.encoder, vlm.llm)
    OTHER_WEIGHTS[case](new, vlm)
    boost_encoder(new, dataset, BoostConfig(**QUICK), folder=tmp_path)


def test_a_new_projector_is_trained_before_stage_3_or_in_it(parts, tmp_path):
    vlm, _, dataset = parts
    new = SpatialVLM(vlm.encoder, vlm.llm)
    align(new, dataset, AlignConfig(**QUICK), folder=tmp_path / "1")
    boost_encoder(new, dataset, BoostConfig(**QUICK), folder=tmp_path / "3")
    new = SpatialVLM(vlm.encoder, vlm.llm)
    boost_encoder(new, dataset, BoostConfig(**QUICK, train_projector=True), folder=tmp_path / "only")


@pytest.mark.parametrize("train_projector", [False, True])
def test_boost_trains_the_channel_and_keeps_the_base(parts, tmp_path, train_projector):
    vlm, _, dataset = parts
    before = snapshot(vlm)
    images = dataset[0]["pixel_values"]
    features = read_tokens(vlm.encoder, images).patches
    boost_encoder(vlm, dataset, BoostConfig(**QUICK, train_projector=train_projector), folder=tmp_path)
    assert parts_that_moved(before, vlm) == ({"projector"} if train_projector else set())
    gates = [p for name, p in sb.named_parameters(vlm.encoder) if name.endswith("gate")]
    assert len(gates) == 2 and all((gate != 0).any() for gate in gates)
    vlm.eval()
    assert not torch.equal(read_tokens(vlm.encoder, images).patches, features)
    with sb.disabled(vlm.encoder):
        assert torch.equal(read_tokens(vlm.encoder, images).patches, features)


def test_a_model_that_does_not_answer_held_out_questions_is_refused(rows, tmp_path, caplog):
    vlm, tokenizer, dataset = build(rows, numbers=range(16))
    held_out = ChatDataset(rows, dataset.images, tokenizer, numbers=range(16, 24))
    with pytest.raises(SpatialBoostError, match="stage3 is not begun: the language model does not answer better"):
        boost_encoder(vlm, dataset, BoostConfig(**QUICK), held_out=held_out, folder=tmp_path / "3")
    assert not sb.status(vlm.encoder).layers and not (tmp_path / "3").exists()
    boost_encoder(vlm, dataset, BoostConfig(**QUICK, require_answers=False), held_out=held_out, folder=tmp_path / "3")
    assert "stage3: the language model does not answer better" in caplog.text


def test_only_what_is_read_is_boosted(parts, tmp_path):
    vlm, _, dataset = parts
    early = SpatialVLM(vlm.encoder, vlm.llm, layer=-2, projector=vlm.projector)
    boost_encoder(early, dataset, BoostConfig(**QUICK), folder=tmp_path)
    assert [layer.index for layer in sb.status(early.encoder).layers] == [0]


def test_a_channel_beyond_what_is_read_is_refused(parts, tmp_path):
    vlm, _, dataset = parts
    early = SpatialVLM(sb.boost(vlm.encoder), vlm.llm, layer=0, projector=vlm.projector)
    with pytest.raises(SpatialBoostError, match=r"layers \[1\] are boosted, but .* reads the output of layer 0"):
        boost_encoder(early, dataset, BoostConfig(**QUICK), folder=tmp_path)


def test_recomputed_activations_give_the_same_result(rows, tmp_path):
    weights = []
    for checkpointing in (False, True):
        vlm, _, dataset = build(rows)
        boost_encoder(
            vlm, dataset, BoostConfig(**QUICK, checkpointing=checkpointing), folder=tmp_path / str(checkpointing)
        )
        weights.append(dict(sb.named_parameters(vlm.encoder)))
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-6) for name in weights[0])


def test_bfloat16_trains(parts, tmp_path):
    vlm, _, dataset = parts
    instruct(vlm, dataset, InstructConfig(**QUICK, bf16=True), folder=tmp_path / "2")
    fitted = boost_encoder(vlm, dataset, BoostConfig(**QUICK, bf16=True), folder=tmp_path / "3")
    assert all(entry["loss"] < 20 for entry in fitted.history)
    assert {p.dtype for p in vlm.parameters()} == {torch.float32}


class Inverted(RowImages):
    def __call__(self, row):
        return self.preparation([255 - np.asarray(open_image(image)) for image in row["images"]], self.size)


def test_the_stages_learn(tmp_path):
    """The language model learns to read brightness; then images are inverted, and the encoder has to adapt."""
    vlm, _, dataset = build(make_rows(64, flat=True), turns=["depth"])
    common = {"batch_size": 16, "save_every": 0, "log_every": 10}
    taught = instruct(vlm, dataset, InstructConfig(**common, steps=200, lr=5e-3), folder=tmp_path / "2")
    assert taught.history[-1]["loss"] < 0.06 < 1 < taught.history[0]["loss"]
    dataset.images = Inverted(vlm.encoder, 32)
    boosted = boost_encoder(vlm, dataset, BoostConfig(**common, steps=80, lr=3e-3), folder=tmp_path / "3")
    assert boosted.history[-1]["loss"] < 0.06 < 0.2 < boosted.history[0]["loss"]


@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_packing_changes_neither_losses_nor_weights(tmp_path, stage):
    rows = make_rows(8)
    for row in rows[::2]:
        row["messages"] = row["messages"][:2]  # so that lengths differ
    found = []
    for pack in (False, True):
        vlm, _, dataset = build(rows)
        keys = {**QUICK, "pack": pack}
        if stage == "stage2":
            fitted = instruct(vlm, dataset, InstructConfig(**keys), folder=tmp_path / str(pack))
        else:
            fitted = boost_encoder(vlm, dataset, BoostConfig(**keys), folder=tmp_path / str(pack))
        found.append(([entry["loss"] for entry in fitted.history], snapshot(vlm)))
    assert vlm._packing == "row"
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert all(torch.allclose(value, found[1][1][name], atol=1e-4) for name, value in found[0][1].items())


def test_a_language_model_that_cannot_be_packed_is_refused(rows, tmp_path):
    vlm, tokenizer, dataset = build(rows)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    recurrent = SpatialVLM(vlm.encoder, MambaForCausalLM(MambaConfig(**shape)))
    with pytest.raises(SpatialBoostError, match=r"pack: true cannot be used with MambaForCausalLM"):
        instruct(recurrent, dataset, InstructConfig(**QUICK, pack=True), folder=tmp_path)
    assert not list(tmp_path.iterdir())
