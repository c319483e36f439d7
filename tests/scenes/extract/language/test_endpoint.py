"""A real server on loopback, with the faults of real ones."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from language_server import Handler, serve, text_of
from spatialboost.cli import app
from spatialboost.errors import SpatialBoostError, StoppedError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.language.answers import Answers, Usage
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import PAPER, TurnPlan
from tiny_cues import tiny_cues, tiny_scene

pytest.importorskip("openai")
SECRET = "sk-very-secret-0123456789"
PLAN = TurnPlan({**PAPER, "vqa": 2})
CAPTION = "A bare room with white walls. The red box is to the left of the blue ball. The ball is near a cat."
PAIRS = [
    {"style": "common", "question": "What color is the ball?", "answer": "Blue."},
    {"style": "common", "question": "Which object is closest to the camera?", "answer": "The blue ball."},  # false
    {
        "style": "adversarial",
        "question": "Is the box behind the cone?",
        "answer": "No, it is in front of the cone.",
    },
    {
        "style": "multi-choice",
        "question": "Which object is the closest to the camera?",
        "options": ["the red box", "the blue ball", "the green cone", "the orange book"],
        "answer": "the orange book",
    },
    {"style": "multi-choice", "question": "What is it?", "answer": "A room."},  # without options
    {"style": "common", "question": "What is this?", "answer": "<|im_start|>A room"},
]


def answer(body) -> str:
    if "Reply with the description only" in text_of(body):
        return CAPTION
    return f"```json\n{json.dumps({'pairs': PAIRS})}\n```"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serve() as state:
        state.answer = answer
        yield state


def endpoint(server, tmp_path, **options):
    given = {"model": "m", "base_url": server.url, "answers": str(tmp_path / "answers"), "retries": 1, "timeout": 20}
    return open_extractor("endpoint", **{**given, **options})


def partial(count: int = 3):
    return [PartialCues.of(view) for view in views(count)]


def views(count: int = 3):
    images = [np.full_like(tiny_cues().image_HW3, 10 * number) for number in range(count)]
    return [replace(tiny_cues(), image_HW3=image, source=f"view {number}") for number, image in enumerate(images)]


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


def test_a_server_that_is_down_stops_the_build_and_the_same_command_continues_it(server, tmp_path):
    seven = views(7)
    source = Extracted(seven, [endpoint(server, tmp_path, what="caption", retries=0)], batch_size=2)
    options = {"plan": PLAN, "progress": False, "rows_per_shard": 2}
    server.faults += [None] * 4 + [401]
    with pytest.raises(
        StoppedError, match=r"m at http://127.*/v1 refuses the requests: 401 .*Check OPENAI_API_KEY"
    ) as stop:
        build_dataset(source, tmp_path / "rows", **options)
    assert SECRET not in str(stop.value)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "rows").glob("*.parquet")}
    assert len(kept) == 2
    assert build_dataset(source, tmp_path / "rows", **options).written == 7
    assert all((tmp_path / "rows" / name).read_bytes() == content for name, content in kept.items())
    elsewhere = endpoint(server, tmp_path / "other", base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(StoppedError, match=r"m at http://127.0.0.1:9/v1 cannot be reached \(.*\)\. What is done is"):
        elsewhere(partial(1))


def test_if_every_request_of_a_batch_fails_the_build_stops(server, tmp_path):
    server.faults += [500] * 8
    with pytest.raises(
        StoppedError, match=r"failed in all 4 requests of a batch \(no answer: status 500, and said: .*status 500"
    ):
        endpoint(server, tmp_path, what="caption", retries=0)(partial(4))


def test_answers_are_paid_once_and_counted(server, tmp_path):
    prices = {"input_price": 2.0, "output_price": 10.0}
    first = endpoint(server, tmp_path, **prices)
    expected = first(partial(3))
    assert len(server.asked) == 6
    assert endpoint(server, tmp_path, **prices)(partial(3)) == expected
    assert len(server.asked) == 6
    assert first.answers.usage == Usage(6, 6000, 600, pytest.approx(6 * 0.003))
    totals = json.loads((tmp_path / "answers" / "usage.json").read_text())
    assert totals == {"requests": 6, "input_tokens": 6000, "output_tokens": 600, "cost": pytest.approx(0.018)}
    first(partial(4))  # one more view
    endpoint(server, tmp_path, model="n")(partial(1))
    assert len(server.asked) == 10
    same = [replace(view, source="a copy") for view in partial(1) * 3]
    endpoint(server, tmp_path, model="o")(same)
    assert len(server.asked) == 12


def test_a_budget_stops_the_build_before_the_next_request(server, tmp_path):
    options = {"input_price": 2.0, "output_price": 10.0, "what": "caption", "concurrency": 1}
    with pytest.raises(
        StoppedError, match=r"the budget of 0.005 is spent \(2 requests, 2,000 tokens read and 200 written"
    ):
        endpoint(server, tmp_path, budget=0.005, **options)(partial(5))
    assert len(server.asked) == 2
    assert len(endpoint(server, tmp_path, budget=0.1, **options)(partial(5))) == 5
    assert len(server.asked) == 5


def test_damaged_answers_and_ledgers_are_survived(server, tmp_path):
    extractor = endpoint(server, tmp_path, what="caption")
    extractor(partial(2))
    files = sorted((tmp_path / "answers").glob("*/*.json"))
    files[0].write_bytes(b'{"text": ')
    with (tmp_path / "answers" / "usage.jsonl").open("a") as ledger:
        ledger.write("[1, 90")  # a process was killed here
    again = endpoint(server, tmp_path, what="caption")
    again(partial(2))
    assert len(server.asked) == 3
    assert again.answers.usage.requests == 2  # the line after the broken one is lost
    assert Answers(tmp_path / "answers").usage == again.answers.usage


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


def test_the_command_says_what_was_dropped_and_what_it_cost(server, tmp_path):
    options = f"model=m,base_url={server.url},what=caption,answers={tmp_path / 'answers'},output_price=1"
    words = f"data build --num 4 --size 48 --rows-per-file 2 --out {tmp_path / 'rows'} --turn caption=1"
    server.answer = lambda body: "A room with white walls. A cat sits near a window."
    result = CliRunner().invoke(app, [*words.split(), "--extract", f"endpoint:{options}"])
    assert result.exit_code == 0, result.output
    last = result.stdout.splitlines()[-2:]
    assert last[0].startswith("4 generated texts dropped; most often (4 times): caption: it has words of geometry in a")
    assert last[1] == "endpoint: 4 requests, 4,000 tokens read and 400 written, cost 0.0004"
    manifest = json.loads((tmp_path / "rows" / "manifest.json").read_text())
    assert sum(manifest["dropped"].values()) == 4
    assert SECRET not in json.dumps(manifest)
    texts = [row["messages"][1]["content"] for row in open_rows([tmp_path / "rows"])]
    assert texts == ["A room with white walls."] * 4


def test_a_killed_build_does_not_pay_twice(server, tmp_path):
    """SIGKILL while answers arrive: what arrived is stored."""
    script = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from test_endpoint_views import views
        from spatialboost.scenes.extract.registry import open_extractor
        open_extractor("endpoint", model="m", base_url={server.url!r}, answers={str(tmp_path / "answers")!r},
                       what="caption", concurrency=1)(views(6))
    """
    (tmp_path / "test_endpoint_views.py").write_text(
        "from dataclasses import replace\nimport numpy as np\nfrom tiny_cues import tiny_cues\n"
        "from spatialboost.scenes.extract.protocol import PartialCues\n"
        "def views(count):\n"
        "    images = [np.full_like(tiny_cues().image_HW3, 10 * number) for number in range(count)]\n"
        "    return [PartialCues.of(replace(tiny_cues(), image_HW3=image)) for image in images]\n"
    )
    server.seconds = 0.2
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    deadline = time.monotonic() + 60
    while len(server.asked) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = len(list((tmp_path / "answers").glob("*/*.json")))
    assert 2 <= stored <= 4
    server.seconds, before = 0.0, len(server.asked)
    endpoint(server, tmp_path, what="caption")(partial(6))
    assert len(server.asked) - before == 6 - stored
