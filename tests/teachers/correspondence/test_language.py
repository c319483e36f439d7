"""Heads in the layers of a language model: gradients, identity, measures, and whole runs of the teacher."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import LlamaConfig, LlamaForCausalLM

import spatialboost as sb
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.rooms.render import render_scenes
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.correspondence.language import language_matches
from spatialboost.teachers.correspondence.language.examples import SequenceCollator
from spatialboost.teachers.correspondence.language.teacher import LanguageCorrespondenceTeacher
from spatialboost.teachers.protocol import TeacherInputs
from spatialboost.training import RowImages, load_config, train
from spatialboost.training.plan import plan
from spatialboost.training.run import evaluate
from spatialboost.training.stage import prepare_stage
from spatialboost.vlm import SpatialVLM, load_llm
from spatialboost.vlm.llms import build_tokenizer

SHAPE = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
PLAN = TurnPlan({"depth": 1, "closer": 1})


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    """A run on rooms, with a random Llama of three blocks whose queries share keys."""
    base = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), base / "encoder.safetensors")
    build_dataset(Rooms(10, size=64, views=3), base / "rooms", seed=0, plan=PLAN, with_depth=True, progress=False)
    build_dataset(Rooms(4, first=50, size=64), base / "talk", seed=0, plan=PLAN, with_depth=True, progress=False)
    rows = open_rows([base / "rooms", base / "talk"])
    tokenizer = build_tokenizer([row["messages"] for row in rows])
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": len(tokenizer)}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, **ids)
    LlamaForCausalLM(config).save_pretrained(base / "llm")
    tokenizer.save_pretrained(base / "llm")
    step = {"batch_size": 2, "lr": 1e-3, "log_every": 1, "save_every": 0}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(base / "encoder.safetensors")},
        "data": {"folders": [str(base / "rooms")], "image_size": 64, "held_out": 2, "workers": 0},
        "teacher": {
            "kind": "language-correspondence",
            "llm": {"name": str(base / "llm")},
            "frames": [2, 3],
            "grids": [6, 0],
            "width": 8,
            "evaluate": 2,
            "lora_rank": 4,
        },
        "stage1": {**step, "steps": 2},
        "match": {**step, "steps": 4},
        "boost": None,
        "device": "cpu",
        "out": str(base / "out"),
    }


def teacher_of(settings, **options) -> LanguageCorrespondenceTeacher:
    config = load_config({**settings, "teacher": {**settings["teacher"], **options}})
    rows = open_rows(config.data.folders)
    torch.manual_seed(0)
    encoder = VisionTransformer(**SHAPE).eval()
    inputs = TeacherInputs(encoder, rows, range(8), RowImages(encoder, 64))
    return LanguageCorrespondenceTeacher.build(config.teacher, inputs)


def batch_of(teacher, rows, config, numbers=(0, 1)) -> dict:
    make = pickle.loads(pickle.dumps(teacher.make_example(config, rows, range(8))))
    examples = [make(number, rows[number]) for number in numbers]
    pixels = torch.cat([example.pop("pixel_values") for example in examples])
    for example in examples:
        example.pop("places", None)
    return {**teacher.collate(examples), "pixel_values": pixels}


@pytest.fixture(scope="module")
def match(settings):
    return load_config(settings).match


@pytest.fixture(scope="module")
def finished(settings):
    return train(load_config(settings))


def test_logits_are_identical_with_and_without_heads(settings, match):
    """GASP's minimal test 4: of the model with its heads, while it reads for them, and of one that never had any."""
    torch.manual_seed(0)
    encoder = VisionTransformer(**SHAPE).eval()
    llm, _ = load_llm(settings["teacher"]["llm"]["name"])
    teacher = teacher_of(settings)
    plain = SpatialVLM(encoder, llm.eval(), projector=teacher.vlm.projector)
    rows = open_rows(settings["data"]["folders"])
    batch = batch_of(teacher, rows, match)
    tokens = {name: batch[name] for name in ("input_ids", "visual_mask", "pixel_values")}
    teacher.objective.eval()
    with torch.no_grad():
        assert torch.equal(plain(**tokens).logits, teacher.vlm(**tokens).logits)
        labels = {**tokens, "labels": batch["labels"]}
        assert torch.equal(plain(**labels).loss, teacher.objective(**batch)["language"])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_gradients_of_a_head_reach_the_lora_of_every_block_up_to_it(settings, match, layer):
    """GASP's minimal test 6: from the contrast between points alone."""
    teacher = teacher_of(settings, layers=[layer], depth_weight=0)
    prepare_stage(teacher, "match", match, size=(64, 64))
    batch = batch_of(teacher, open_rows(settings["data"]["folders"]), match)
    batch["labels"] = torch.full_like(batch["labels"], -100)  # no loss of the language
    found = teacher.objective(**batch)
    assert found["language"] == 0 and found["contrast"] > 0
    found["loss"].backward()
    named = list(teacher.vlm.llm.named_parameters())
    trained = [(name, p) for name, p in named if p.requires_grad]
    assert trained and all(".lora_" in name and p.grad is not None for name, p in trained)
    reached = {int(name.split("layers.")[1].split(".")[0]) for name, p in trained if p.grad.any()}
    assert reached == set(range(layer + 1))
    assert all(p.grad.any() for p in teacher.objective.heads.parameters())


def test_sequences_and_conversations_do_not_see_each_other(settings, match):
    """The loss of a batch is that of its rows, whatever they are padded to; and the images go to their own tokens."""
    teacher = teacher_of(settings, instructions=2)
    rows = open_rows(settings["data"]["folders"])
    together = batch_of(teacher, rows, match, (0, 1, 2))
    assert together["sequence_rows"].tolist() == [0, 3, 6] and len(together["input_ids"]) == 9
    items = teacher.objective.num_items(together)
    with torch.no_grad():
        alone = [teacher.objective(**batch_of(teacher, rows, match, (i,)), num_items_in_batch=items) for i in range(3)]
        found = teacher.objective(**together)
    for name in ("language", "contrast", "depth"):
        assert torch.allclose(sum(each[name] for each in alone), found[name], rtol=1e-4)


def test_instructions_come_in_the_share_that_is_asked_for(settings, match, tmp_path):
    rows = open_rows(settings["data"]["folders"])
    for share, least, most in ((0.0, 1, 1), (1.0, 2, 2), (2.5, 3, 4)):
        make = teacher_of(settings, instructions=share).make_example(match, rows, range(8))
        counts = {len(make(number, rows[number])["lengths"]) for number in range(8)}
        assert (min(counts), max(counts)) == (least, most)
    folder = Path(settings["data"]["folders"][0]).with_name("talk")
    make = teacher_of(settings, instruction_folders=[str(folder)]).make_example(match, rows, range(8))
    example = make(0, rows[0])
    assert len(example["pixel_values"]) == len(example["visible"]) + 1  # rooms with one view
    assert int(example["visual_mask"].sum()) == 16 * len(example["pixel_values"])


def test_checkpointing_changes_no_gradient(settings, match):
    gradients = []
    rows = open_rows(settings["data"]["folders"])
    for again in (False, True):
        teacher = teacher_of(settings)
        prepare_stage(teacher, "match", match.model_copy(update={"checkpointing": again}), size=(64, 64))
        teacher.objective.train()
        teacher.objective(**batch_of(teacher, rows, match))["loss"].backward()
        gradients.append([p.grad for p in teacher.objective.parameters() if p.grad is not None])
    assert len(gradients[0]) > 40
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_random_tokens_match_as_often_as_chance_says(settings):
    """GASP's minimal test 5, through the whole model."""
    teacher = teacher_of(settings)
    scenes = render_scenes(range(2, 10), views=3, size=64)
    options = {"image_size": 64, "radius": 1, "layers": [0]}
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(4096, 32, generator=rng)
    teacher.vlm.projector.forward = lambda patches: noise[torch.randint(4096, patches.shape[:2], generator=rng)]
    found = [language_matches(teacher.vlm.eval(), teacher.tokenizer, scenes, **options) for _ in range(6)]
    assert sum(each.pck[0] for each in found) / 6 == pytest.approx(found[0].chance, abs=0.03)
    assert 0.1 < found[0].chance < 0.2 and found[0].grid == (4, 4)


def test_queries_that_equal_keys_find_every_point_of_an_equal_view_but_not_after_rotary_positions(settings):
    teacher, view = teacher_of(settings), render_scenes([2], views=1, size=64)[0].views[0]
    view = replace(view, pose_44=np.eye(4))
    attention = teacher.vlm.llm.model.layers[0].self_attn
    keys = attention.k_proj.base_layer.weight.unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    attention.q_proj.base_layer.weight.data.copy_(keys)
    found = {
        rotary: language_matches(
            teacher.vlm.eval(), teacher.tokenizer, [Scene([view] * 2)], image_size=64, radius=0.5, rotary=rotary
        )
        for rotary in (False, True)
    }
    assert found[False].layers == [0, 1, 2] and found[False].pck[0] == 1 and found[True].pck[0] < 1


def test_a_run_trains_lora_and_heads_and_leaves_a_plain_language_model(finished, settings):
    fit = finished.stages["match"]["fit"]
    assert "moved: LoRA (42 tensors)" in fit["moved"] and "heads (12)" in fit["moved"]
    assert "unchanged: encoder base" in fit["moved"] and "language model" in fit["moved"]
    assert finished.delta is None and [entry["loss"] for entry in fit["history"]]
    scores = {(s["kind"], s["answerer"]): s for s in finished.stages["match"]["scores"]}
    assert 0 < scores["attention matches", "guess"]["accuracy"] < 1
    assert scores["answer tokens", "image"]["answers"] > 10
    folder = finished.out / "match"
    assert not [
        name for name in load_file(folder / "llm" / "model.safetensors") if "lora" in name or "head" in name[:5]
    ]
    llm, _ = load_llm(folder / "llm")
    before, _ = load_llm(settings["teacher"]["llm"]["name"])
    ids = torch.arange(12)[None]
    with torch.no_grad():
        ours = finished.teacher.vlm.llm.eval()(input_ids=ids).logits
        assert torch.equal(llm.eval()(input_ids=ids).logits, ours)
        assert not torch.allclose(before.eval()(input_ids=ids).logits, ours, atol=1e-5)
    page = (finished.out / "report.html").read_text()
    assert "attention matches" in page and "answer tokens" in page


def test_heads_learn_at_four_times_the_rate_of_the_lora(finished, match):
    groups = finished.teacher.groups("match", match)
    heads = {id(p) for p in finished.teacher.objective.heads.parameters()}
    assert {(group["lr"], id(group["params"][0]) in heads) for group in groups} == {(1e-3, False), (4e-3, True)}


def test_a_finished_run_is_loaded_and_scored_again(finished, settings, monkeypatch):
    monkeypatch.setattr("spatialboost.training.stage.fit", None)  # training anything would fail
    train(load_config(settings))
    scores = {(score.kind, score.answerer): score for score in evaluate(finished.out, rows=2)}
    recorded = {(s["kind"], s["answerer"]): s for s in finished.stages["match"]["scores"]}
    for key, score in recorded.items():
        assert scores[key].accuracy == pytest.approx(score["accuracy"], abs=0.02)
    assert {f"attention matches, layer {n}" for n in range(3)} <= {kind for kind, _ in scores}


def test_what_it_has_learnt_teaches_attn_plus_here_and_by_language(finished, settings, tmp_path):
    """The stage `boost`, and the teacher `language` that begins with this run."""
    own = {**settings, "stage1": None, "match": None, "boost": {**settings["match"], "steps": 2}}
    teacher = {**settings["teacher"], "earlier_run": str(finished.out)}
    result = train(load_config({**own, "teacher": teacher, "out": str(tmp_path / "boost")}))
    assert "Attn+" in result.stages["boost"]["fit"]["moved"] and len(sb.status(result.encoder).layers) == 2
    facts = json.loads((result.delta / "config.json").read_text())["training"]
    assert facts["objective"] == "language-correspondence" and facts["layers"] == [0, 1, 2]
    language = {"kind": "language", "llm": {"name": "gone"}, "earlier_run": str(finished.out), "evaluate": 0}
    steps = {"stage2": None, "stage3": {**settings["match"], "steps": 1}}
    stages = {key: value for key, value in own.items() if key not in ("match", "boost")} | steps
    third = train(load_config({**stages, "teacher": language, "out": str(tmp_path / "language")}))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        ours, theirs = (each.teacher.vlm.llm.eval()(input_ids=ids).logits for each in (third, finished))
    assert torch.equal(ours, theirs)


def test_the_projector_can_be_trained_alone_and_the_control_differs_by_one_key(finished, settings, tmp_path):
    only = ["match=null", "stage1.steps=1", f"out={tmp_path / 'only'}"]
    assert list(train(load_config(settings, only)).stages) == ["stage1"]
    changed = ["match.shuffle_pairs=true", f"out={tmp_path / 'out'}"]
    history = train(load_config(settings, changed)).stages["match"]["fit"]["history"]
    assert history[0]["loss"] > finished.stages["match"]["fit"]["history"][0]["loss"]


def test_the_plan_counts_the_stage(settings, finished):
    found = plan(load_config(settings, ["stage1=null", "match.batch_size=1"]))
    trained = finished.stages["match"]["fit"]["trainable"]
    assert [each.name for each in found] == ["match"] and found[0].total() > 10**5
    assert found[0].trained == sum(count for count, _ in trained.values())


def test_an_example_is_made_up_for_a_plan_without_data(settings, match):
    teacher = teacher_of(settings, max_length=80)
    example, images = teacher.typical_example(match)
    assert images == 4 and example["lengths"].tolist() == [48, 80] and example["points"].shape == (3, 52, 2)
    batch = {**teacher.collate([example, example]), "pixel_values": torch.zeros(8, 3, 64, 64)}
    with torch.no_grad():
        assert torch.isfinite(teacher.objective(**batch)["loss"])


def test_a_row_without_a_usable_conversation_is_named(settings, match):
    rows = open_rows(settings["data"]["folders"])
    make = teacher_of(settings, max_length=60).make_example(match, rows, range(8))
    with pytest.raises(SpatialBoostError, match=r"none of 8 rows that were drawn has a usable conversation; row \d: "):
        make(0, rows[0])


REFUSED = {
    "tokens": (["teacher.tokens_per_cell=2"], "a head needs one token for each place"),
    "bits": (["teacher.llm.quantization=8bit"], "match adds what it has learnt to the language model's weights"),
    "unknown": (["teacher.lora_rnk=1"], 'unknown key "teacher.lora_rnk"'),
    "share": (["teacher.instructions=-1"], "greater than or equal to 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_are_checked_before_anything_is_loaded(settings, name):
    overrides, message = REFUSED[name]
    with pytest.raises(SpatialBoostError, match=message):
        load_config(settings, overrides)


def test_layers_that_leave_a_lora_without_gradient_are_refused(settings, match):
    with pytest.raises(SpatialBoostError, match=r"ends at block 1 of 3, and without conversations"):
        teacher_of(settings, instructions=0, layers=[0, 1]).prepare("match", match)
    with pytest.raises(SpatialBoostError, match="has no block 9; it has 3"):
        teacher_of(settings, layers=[9])


def test_conversations_alone_are_collated_as_such():
    row = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, 2]), "visual_mask": torch.zeros(2) > 1}
    assert "sequence_rows" not in SequenceCollator(0)([row, row])


def test_the_tiny_preset_trains(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [f"{stage}.{key}" for stage in ("stage1", "match") for key in ("steps=1", "batch_size=2", "save_every=0")]
    own = [f"data.folders={settings['data']['folders']}", f"teacher.llm.name={settings['teacher']['llm']['name']}"]
    result = train(
        load_config("gasp/language-tiny", [*small, *own, "teacher.width=8", "data.held_out=2", "device=cpu"])
    )
    assert result.teacher.objective.layers == [0, 1, 2] and (result.out / "match" / "llm" / "config.json").is_file()
