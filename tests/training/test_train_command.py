from __future__ import annotations

import pytest
from typer.testing import CliRunner

from spatialboost.errors import SpatialBoostError
from spatialboost.training import train_command

GOOD = "encoder: {name: vit_tiny_patch16_224}\ndata: {folders: [rooms]}\nout: run\n"


@pytest.fixture
def app():
    return train_command.app


def test_check_shows_the_whole_configuration(app, tmp_path):
    (tmp_path / "run.yaml").write_text(GOOD)
    done = CliRunner().invoke(app, ["--config", str(tmp_path / "run.yaml"), "--check", "--out", "elsewhere"])
    assert done.exit_code == 0 and '"out": "elsewhere"' in done.stdout and '"lr": 0.001' in done.stdout


def test_a_typo_is_our_error(app, tmp_path):
    (tmp_path / "run.yaml").write_text(GOOD + "stage4: {}\n")
    done = CliRunner().invoke(app, ["--config", str(tmp_path / "run.yaml")])
    assert isinstance(done.exception, SpatialBoostError) and 'unknown key "stage4"' in str(done.exception)


def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    cli = pytest.importorskip("spatialboost.cli", reason="the command line is not there")
    (tmp_path / "run.yaml").write_text(GOOD + "stage4: {}\n")
    monkeypatch.setattr("sys.argv", ["spatialboost", "train", "--config", str(tmp_path / "run.yaml")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and 'unknown key "stage4"' in said
