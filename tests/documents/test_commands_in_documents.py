"""Commands shown in documents exist, and have every option that is shown with them."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.documents.test_documents import PAGES, ROOT
from timm_gam.__main__ import COMMANDS

_COMMAND = re.compile(r"(?:python3? -m ((?:eval|hub|timm_gam|benchmarks)[\w.]*)|timm-gam ([a-z]\w*))((?:[^\n`]|\\\n)*)")


class _ParserError(Exception):
    """Raised where a command would have parsed its arguments."""


def _shown() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Page, command and its arguments, for every command of code blocks and code spans."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```(?:bash|sh|console|text)?\n(.*?)```", text, flags=re.S)
        blocks += re.findall(r"(?:^ {4}.*\n)+", text, flags=re.M)
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
        for code in [*blocks, *spans]:
            for module, command, rest in _COMMAND.findall(code):
                arguments = re.sub(r"\\\n|\s#.*|[|;&>].*", " ", rest.replace("\\\n", " "))
                name = module or f"timm-gam {command}"
                yield str(page.relative_to(ROOT)), name, tuple(arguments.split())


@cache
def _parser(module: str, subcommand: str | None) -> argparse.ArgumentParser:
    """The parser a command's `main` uses, taken where it would parse."""

    def take(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _ParserError(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", take)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", take)
        try:
            importlib.import_module(module).main([])
        except _ParserError as taken:
            parser = taken.args[0]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and subcommand in action.choices:
            return action.choices[subcommand]
    return parser


def _module(name: str) -> str:
    """Where a command's `main` is."""
    if name.startswith("timm-gam "):
        return COMMANDS[name.removeprefix("timm-gam ")][0]
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"no module {name}"
    return f"{name}.__main__" if spec.submodule_search_locations is not None else name


@pytest.mark.parametrize("page", sorted({page for page, _, _ in _shown()}))
def test_commands_and_their_options_exist(page: str) -> None:
    wrong = []
    for _, name, arguments in (shown for shown in _shown() if shown[0] == page):
        if name.startswith("timm-gam ") and name.removeprefix("timm-gam ") not in COMMANDS:
            wrong.append(f"{name}: no such command")
            continue
        parser = _parser(_module(name), arguments[0] if arguments else None)
        options = {
            option.partition("=")[0].strip("'\"()[],.") for option in arguments if option.startswith(("--", "[--"))
        }
        wrong += [f"{name} {option}" for option in sorted(options - set(parser._option_string_actions))]
    assert wrong == []


def test_the_guard_sees_commands() -> None:
    shown = list(_shown())
    assert len(shown) > 60
    assert ("README.md", "timm-gam score") in {(page, name) for page, name, _ in shown}
    assert "--no-such-option" not in _parser("eval.retrieval", None)._option_string_actions
