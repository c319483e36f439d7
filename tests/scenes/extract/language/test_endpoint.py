"""A real server on loopback, with the faults of real ones."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging

import pytest
from PIL import Image

from endpoint_views import PAIRS, PLAN, SECRET, endpoint, partial, views
from language_server import Handler
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from tiny_cues import tiny_cues, tiny_scene

pytest.importorskip("openai")


def test_true_texts_become_turns_and_the_others_are_dropped_and_counted(server, tmp_path):
    source = Extracted(views(1), [endpoint(server, tmp_path)])
    facts = source[0].facts
    assert facts["caption"] == "A bare room with white walls. The red box is to the left of the blue ball."
    assert [pair["style"] for pair in facts["vqa"]] == ["common", "adversarial", "multi-choice"]
    assert facts["vqa"][2]["answer"].startswith("The orange book. Answer: ")
    assert facts["dropped"] == {
        "caption: it has words of geometry in a form that cannot be checked": 1,
        "vqa: it states something about geometry that the layout does not show": 1,
        "vqa: it is JSON with other fields": 1,
        "vqa: it has markup or special tokens": 1,
    }
    talk = build_conversation(source[0], seed=0, plan=PLAN)
    assert [turn["kind"] for turn in talk.meta["turns"]][-3:] == ["caption", "vqa", "vqa"]
    texts = [message["content"] for message in talk.messages]
    assert facts["caption"] in texts
    assert all(turn["generated"] for turn in talk.meta["turns"][-3:])
    assert len(set(texts[0::2])) == len(texts) // 2  # no question twice
    assert talk.meta["left_out"].keys() == {"caption_question"}
    assert talk.meta["dropped"] == facts["dropped"]
    assert check_against_cues(talk.messages, talk.meta, source[0]) == []
    for number, message in enumerate(talk.messages):
        if message["content"] == facts["caption"]:
            wrong = [*talk.messages[:number], {**message, "content": "The red box is right of the ball."}]
            assert check_conversation([*wrong, *talk.messages[number + 1 :]], talk.meta)


def test_images_are_sent_or_only_what_is_known(server, tmp_path):
    endpoint(server, tmp_path, what="caption")(partial(1))
    content = server.asked[0]["messages"][-1]["content"]
    kind, _, data = content[0]["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (128, 96)
    assert "- red box: center at x 0.19, y 0.22; 1.21 meters away from the camera; cube 0." in content[1]["text"]
    endpoint(server, tmp_path, what="caption", images=False)(partial(1))
    assert "You cannot see it" in server.asked[1]["messages"][-1]["content"]
    assert len(server.asked) == 2


def test_views_of_a_scene_are_asked_about_together(server, tmp_path):
    server.answer = lambda body: json.dumps(
        {
            "pairs": [
                {"style": "common", "question": "In image 2, is the red box left of the ball?", "answer": "Yes."},
                {"style": "common", "question": "In image 2, is the red box behind the ball?", "answer": "Yes."},
            ]
        }
    )
    source = Extracted([tiny_scene(2), tiny_cues()], [endpoint(server, tmp_path, what="vqa")])
    assert [len(body["messages"][-1]["content"]) - 1 for body in server.asked] == [] and len(source) == 2
    scene = source[0]
    assert sorted(len(body["messages"][-1]["content"]) - 1 for body in server.asked) == [1, 2]
    assert len(scene.views[0].facts["scene_vqa"]) == 1 and "scene_vqa" not in scene.views[1].facts
    talk = build_conversation(scene, seed=1, plan=TurnPlan({"scene_vqa": 2}))
    assert sum(turn.get("generated", False) for turn in talk.meta["turns"]) == 1  # the other one is from a template
    assert check_against_cues(talk.messages, talk.meta, scene) == []


@pytest.mark.parametrize("fault", [(429, 0.05), 500, 503, "break"])
def test_what_may_pass_is_tried_again(server, tmp_path, fault):
    server.faults.append(fault)
    (addition,) = endpoint(server, tmp_path, what="caption")(partial(1))
    assert addition["facts"]["caption"].startswith("A bare room")
    assert "dropped" not in addition["facts"] or len(addition["facts"]["dropped"]) == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((429, 0.05), "no answer: status 429"),
        (500, "no answer: status 500"),
        (400, "no answer: status 400"),
        ("hang", "no answer: timed out"),
        ("break", "no answer: the connection broke"),
        ("html", "no answer: it is not JSON"),
        ("no json", "no answer: it is not JSON"),
        ("no choices", "no answer: it is not JSON"),
        ("empty", "no answer: it is empty"),
    ],
)
def test_an_item_without_an_answer_keeps_its_templates_and_no_other_is_lost(server, tmp_path, fault, reason):
    server.faults += [fault]
    three = views(3)
    extractor = endpoint(
        server, tmp_path, what="caption", retries=0, concurrency=1, timeout=0.4 if fault == "hang" else 20
    )
    report = build_dataset(Extracted(three, [extractor]), tmp_path / "rows", plan=PLAN, progress=False)
    assert report.written == 3
    metas = [json.loads(row["meta"]) for row in open_rows([tmp_path / "rows"])]
    captions = [turn for meta in metas for turn in meta["turns"] if turn["kind"] == "caption"]
    assert [turn.get("generated", False) for turn in captions] == [False, True, True]
    assert metas[0]["dropped"] == {f"caption: {reason}": 1}
    assert report.dropped[f"caption: {reason}"] == 1
    assert SECRET not in (tmp_path / "rows" / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("reply", "dropped"),
    [
        ("I cannot help with that.", {"vqa: it is not JSON"}),
        ("<html><body>no</body></html>", {"vqa: it is not JSON"}),
        ('{"questions": 3}', {"vqa: it is JSON with other fields"}),
        ('{"pairs": ["a", 3, null, {"style": "common"}]}', {"vqa: it is JSON with other fields"}),
        (
            '{"pairs": [{"style": "common", "question": "What is <image>?", "answer": "A"}]}',
            {"vqa: it has markup or special tokens"},
        ),
        (
            '{"pairs": [{"style": "odd", "question": "What is this?", "answer": "A"}]}',
            {"vqa: it does not have the expected form"},
        ),
        ("[" * 5000, {"vqa: it is not JSON"}),
    ],
)
def test_garbage_in_pairs_is_dropped_and_counted(server, tmp_path, reply, dropped):
    server.answer = lambda body: reply
    (addition,) = endpoint(server, tmp_path, what="vqa")(partial(1))
    assert "vqa" not in addition["facts"]
    assert set(addition["facts"]["dropped"]) == dropped


def test_a_reply_that_is_no_json_is_asked_again_once(server, tmp_path):
    server.answer = lambda body: json.dumps({"pairs": PAIRS}) if len(body["messages"]) > 2 else "Sure, here you are!"
    (addition,) = endpoint(server, tmp_path, what="vqa")(partial(1))
    assert len(addition["facts"]["vqa"]) == 3
    assert len(server.asked) == 2
    assert server.asked[1]["messages"][2]["content"] == "Sure, here you are!"


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A room with a <image> in it.", None),
        ("<|im_start|>assistant A room", None),
        ("Room", None),
        ("A tidy room with white walls. A lamp stands on the", "A tidy room with white walls."),
        ("A tidy room.\n\nIt is bright.", "A tidy room. It is bright."),
        ("A tidy room with walls. " * 9, "A tidy room with walls."),
        ("<think>The box\nis red.</think>A tidy room with walls.", "A tidy room with walls."),
    ],
)
def test_captions_are_plain_text(server, tmp_path, text, caption):
    server.answer = lambda body: text
    server.faults += ["cut"] if text.endswith("the") else []
    (addition,) = endpoint(server, tmp_path, what="caption")(partial(1))
    assert addition["facts"].get("caption") == caption


def test_requests_go_out_at_the_same_time_up_to_the_limit(server, tmp_path):
    server.seconds = 0.05
    endpoint(server, tmp_path, what="caption", concurrency=3)(partial(8))
    assert server.most_at_once == 3


def test_the_key_is_sent_and_never_shown(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server.faults += [400]
    extractor = endpoint(server, tmp_path, what="caption")
    (addition,) = extractor(partial(1))
    assert set(server.keys) == {f"Bearer {SECRET}"}
    assert addition["facts"]["dropped"] == {"caption: no answer: status 400": 1}
    shown = [extractor.name, repr(extractor.provenance), repr(vars(extractor)), caplog.text, repr(addition)]
    shown += [path.read_text() for path in (tmp_path / "answers").rglob("*") if path.is_file()]
    assert all(SECRET not in text for text in shown)


def test_it_works_where_an_event_loop_runs(server, tmp_path):
    async def cell():
        return endpoint(server, tmp_path, what="caption")(partial(1))

    assert asyncio.run(cell())[0]["facts"]["caption"]


def test_models_that_refuse_parameters_get_others(server, tmp_path, monkeypatch):
    refused = []
    usual = Handler.reply

    def picky(self, body, fault):
        wrong = "use max_completion_tokens instead of max_tokens" if "max_tokens" in body else ""
        wrong = wrong or ("temperature is not supported with this model" if "temperature" in body else "")
        if wrong:
            refused.append(wrong)
            self.send(400, json.dumps({"error": {"message": wrong}}), {})
        else:
            usual(self, body, fault)

    monkeypatch.setattr(Handler, "reply", picky)
    additions = endpoint(server, tmp_path, what="caption", concurrency=1)(partial(2))
    assert all(addition["facts"]["caption"] for addition in additions)
    assert len(refused) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "needs the name of a model and a folder for its answers"),
        ({"answers": ""}, "needs the name of a model and a folder for its answers"),
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000'; expected http://HOST:PORT/v1"),
        ({"what": "captions"}, "what is 'captions'; expected caption, vqa or both"),
        ({"images": "no"}, "images is 'no'; expected true or false"),
        ({"pairs": 0}, "pairs is 0; expected the number of pairs of each style, 1 to 20"),
        ({"concurrency": 0}, "concurrency is 0 and timeout 20; expected more than 0"),
        ({"retries": "many"}, "retries is 'many'; expected a whole number from 0 on"),
        ({"budget": 3}, "a budget of 3 needs input_price and output_price"),
        ({"answers": __file__}, "file exists|not a directory"),
        ({"key": "x"}, "'endpoint' has no option 'key'"),
    ],
)
def test_wrong_options_are_one_clear_line(server, tmp_path, options, message):
    with pytest.raises(SpatialBoostError, match=message):
        endpoint(server, tmp_path, **options)


def test_without_a_key_openai_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(SpatialBoostError, match="set the environment variable OPENAI_API_KEY, or give base_url"):
        open_extractor("endpoint", model="m", answers=str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-two words")
    with pytest.raises(SpatialBoostError, match="OPENAI_API_KEY has spaces") as error:
        open_extractor("endpoint", model="m", answers=str(tmp_path))
    assert "two words" not in str(error.value)
