"""What the documentation shows is run: code, docstring examples, command lines; and it mentions every public name."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer

import spatialboost

ROOT = Path(__file__).parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.is_file()]
FENCE = re.compile(r"^```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(spatialboost.__path__, "spatialboost.")
    if not module.name.endswith(".__main__")
)


def blocks(page: Path, *languages: str) -> list[tuple[str, int, str]]:
    """Info string, number of the first line, and text of the fenced blocks of some languages."""
    text = page.read_text(encoding="utf-8")
    return [
        (found["info"].strip(), text.count("\n", 0, found.start("code")) + 1, found["code"])
        for found in FENCE.finditer(text)
        if found["language"] in languages
    ]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to work in, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, offline: Path) -> None:
    """Blocks of one page follow each other; one that cannot run here says ``no-run`` after ``python``."""
    names: dict[str, object] = {"__name__": "__main__"}
    for info, line, code in blocks(page, "python"):
        assert info in ("", "no-run"), f"{page.name}:{line}: info string {info!r}; known is no-run"
        if not info:
            # newlines before, so that a traceback names the line of the page
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str, offline: Path) -> None:
    if name.endswith("lmms_eval_models"):
        pytest.importorskip("lmms_eval", reason="the extra lmms-eval is not with the other ones")
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name} fail, see above"


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for _, line, code in blocks(page, "bash", "sh", "shell", "console"):
            for number, text in enumerate(code.replace("\\\n", "  ").splitlines()):
                for part in re.split(r"&&|;", text.split("#")[0]):
                    words = part.strip().removeprefix("$ ")
                    if words.startswith("spatialboost "):
                        found.append((f"{page.name}:{line + number}", words))
    return found


@pytest.mark.parametrize(("where", "words"), command_lines())
def test_commands_and_options_exist(where: str, words: str) -> None:
    from spatialboost.cli import app

    command = typer.main.get_command(app)
    arguments = shlex.split(words)[1:]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command = command.commands[arguments.pop(0)]
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    used = {argument.partition("=")[0] for argument in arguments if re.match(r"--?[a-z]", argument)}
    assert used <= known | {"--help"}, (
        f"{where}: {words!r} has {sorted(used - known)}; {command.name} knows {sorted(known)}"
    )
    assert not hasattr(command, "commands") or not arguments or used, f"{where}: no command {arguments[0]!r}"


def test_every_public_name_is_mentioned() -> None:
    assert PAGES, "no README.md and no docs/*.md"
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in spatialboost.__all__ if not re.search(rf"\b{re.escape(name)}\b", text)]
    assert not missing, f"in spatialboost.__all__ but neither in README.md nor in docs/: {missing}"
