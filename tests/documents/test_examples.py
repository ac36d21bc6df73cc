"""The examples in the docstrings of every door run as written."""

from __future__ import annotations

import doctest
import importlib
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import write_class_folders
from tests.test_order import ORDER

DOORS = ("timm_gam", *ORDER, "eval.demo", "timm_gam.__main__")


def _names(door: str) -> list[str]:
    """What a door exports; of a command's module what it defines."""
    module = importlib.import_module(door)
    own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == door]
    return getattr(module, "__all__", own)


def _examples() -> Iterator[doctest.DocTest]:
    finder, seen = doctest.DocTestFinder(recurse=False), set()
    for door in DOORS:
        module = importlib.import_module(door)
        for name in _names(door):
            thing = getattr(module, name)
            if id(thing) in seen or not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            seen.add(id(thing))
            names = {
                **vars(importlib.import_module(thing.__module__)),
                **{n: getattr(module, n) for n in _names(door)},
            }
            yield from (test for test in finder.find(thing, f"{door}.{name}", globs=names) if test.examples)


@pytest.fixture
def _files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What examples find beside them: photos/CLASS/IMAGE.jpg, and where they name "me/...", a Hub and a run."""
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "photos")
    if '"me' in request.node.callspec.params["example"].docstring:
        hub = request.getfixturevalue("hub")
        request.getfixturevalue("token")
        hub.add("datasets", "me/photographs", tmp_path / "photos")
        shutil.copytree(request.getfixturevalue("run"), tmp_path / "runs" / "test_resnet_gam-0")
        monkeypatch.setattr("hub.model.repository.IMAGES_PER_CLASS", 2)


@pytest.mark.parametrize("example", [pytest.param(test, id=test.name) for test in _examples()])
@pytest.mark.usefixtures("_files")
def test_example(example: doctest.DocTest) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    lines: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=flags).run(example, out=lines.append)
    assert failed == 0, "".join(lines)


def test_functions_of_the_front_doors_have_an_example() -> None:
    doors = [importlib.import_module(door) for door in ("timm_gam", "eval", "hub")]
    functions = {name: getattr(door, name) for door in doors for name in door.__all__}
    assert [n for n, f in functions.items() if inspect.isfunction(f) and ">>>" not in (f.__doc__ or "")] == []
