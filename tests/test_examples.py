"""The examples in the docstrings of every door run as written."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("example", [pytest.param(test, id=test.name) for test in _examples()])
def test_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    lines: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=flags).run(example, out=lines.append)
    assert failed == 0, "".join(lines)
