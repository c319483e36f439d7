"""Builds with the extractor `endpoint`: what stops them, what is paid, and how they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from endpoint_views import PLAN, SECRET, endpoint, partial, views
from spatialboost.cli import app
from spatialboost.errors import StoppedError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.language.answers import Answers, Usage
from spatialboost.scenes.extract.pipeline import Extracted

pytest.importorskip("openai")


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
