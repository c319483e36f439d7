"""The examples run as a newcomer would run them: as scripts, on tiny models, without network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAVED = {
    "wrap_timm": "wrapped_timm",
    "wrap_transformers": "wrapped_transformers",
    "with_lora": "with_lora/delta",
    "three_stages": "three_stages/delta",
}
SCRIPTS = [script for script in EXAMPLES if script.stem in SAVED]  # the callbacks are run by test_loops.py


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_runs_and_saves_a_delta(script: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, str(script), "--tiny"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "layers boosted" in done.stdout + done.stderr
    assert {"model.safetensors", "config.json"} <= {path.name for path in (tmp_path / SAVED[script.stem]).iterdir()}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_fits_on_a_page(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 60


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda script: script.name)
def test_scripts_find_what_they_import(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
