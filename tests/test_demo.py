import json

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.demo import ASSETS, MARKER, SIZE, TINY, encoder_section, load_encoder, load_language_model, run
from spatialboost.errors import SpatialBoostError
from spatialboost.probes import depth_probe
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.rooms.render import render_rooms
from spatialboost.vlm.chat import encode_chat


def test_the_shipped_encoder_is_a_plain_vit_that_sees_more_than_a_new_one():
    encoder = load_encoder()
    assert type(encoder) is VisionTransformer and sum(p.numel() for p in encoder.parameters()) < 11.2e6
    weights = [p for name, p in encoder.named_parameters() if name.endswith("qkv.weight")]
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() and 0.01 < p.std() < 1 for p in weights)
    assert (ASSETS / "encoder" / "model.safetensors").stat().st_size < 12e6
    assert "MIT License" in (ASSETS / "encoder" / "LICENSE").read_text()
    torch.manual_seed(0)
    new = VisionTransformer(**encoder_section()["kwargs"])
    rooms = [Rooms(count, first=first, size=SIZE) for count, first in ((24, 10), (12, 60))]
    result = depth_probe({"shipped": encoder, "new": new}, *rooms, image_size=SIZE, num_panels=0, seeds=(0,))
    assert result.spread("shipped", "rmse").mean < 0.95 * result.spread("new", "rmse").mean


def test_the_shipped_language_model_knows_the_words_and_shape_of_answers():
    llm, tokenizer = load_language_model()
    plan = TurnPlan({"depth": 12}, wordings=2)
    messages = build_conversation(render_rooms([7], size=SIZE)[0], seed=0, plan=plan).messages
    encoded = encode_chat(messages, tokenizer)
    assert tokenizer.unk_token_id not in encoded["input_ids"]
    with torch.no_grad():
        loss = llm(input_ids=encoded["input_ids"][None], labels=encoded["labels"][None]).loss
    assert loss < 1.5  # a new model's is above 5; without an image the digits of a depth cannot be known


def test_the_whole_demo_runs_and_reports_what_it_measured(tmp_path, capsys):
    for name in ("seed0/boosted/stage1", "delta"):  # an earlier demo, which was stopped
        (tmp_path / "demo" / name).mkdir(parents=True)
    (tmp_path / "demo" / MARKER).touch()
    (tmp_path / "demo" / "seed0/boosted/run.json").write_text("{}")
    result = run(out=tmp_path / "demo", settings=TINY)
    facts = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert facts["verdict"] == result.experiment.verdict("depth")
    assert result.probe.names == ["base", "boosted", "shuffled answers", "constant depth"]
    values = {name: result.probe.values(name, "rmse") for name in result.probe.names[:3]}
    assert values["base"] != values["boosted"] != values["shuffled answers"]  # each has been trained, or not, by itself
    assert result.reload_difference < 1e-4
    page = (tmp_path / "demo" / "report.html").read_text()
    assert facts["verdict"].split(" (")[0] in page and page.count("data:image/png;base64,") == 5
    assert f"{result.probe.spread('boosted', 'rmse').mean:.3f}" in page and "depth probe" in capsys.readouterr().out
    assert (tmp_path / "demo" / "conversations.html").exists()
    boosted = sb.load_pretrained(load_encoder(), tmp_path / "demo" / "delta")
    assert len(sb.status(boosted).layers) == 6


def test_the_demo_boosts_the_encoder_that_the_user_has(tmp_path):
    torch.manual_seed(0)
    own = VisionTransformer(img_size=56, patch_size=14, embed_dim=64, depth=2, num_heads=1, num_classes=0)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    result = run(out=tmp_path / "demo", settings=TINY, encoder=str(tmp_path / "own.safetensors"))
    facts = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert facts["config"]["data"]["image_size"] == 112 and result.reload_difference < 1e-4
    assert len(sb.status(result.experiment.runs[0].encoders["boosted"]).layers) == 2
    assert "own.safetensors" in (tmp_path / "demo" / "report.html").read_text()


def test_an_encoder_that_does_not_exist_stops_the_demo_before_anything_is_written(tmp_path):
    with pytest.raises(SpatialBoostError, match=r"encoder is 'nothing\.here'; expected"):
        run(out=tmp_path / "demo", settings=TINY, encoder="nothing.here")
    assert not (tmp_path / "demo").exists()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()  # a name that the demo uses too
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    with pytest.raises(SpatialBoostError, match="is not empty and was not written by a demo"):
        run(out=tmp_path, settings=TINY)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "thesis.tex"]
