"""What leaves the program as text: every character of it shows, and no secret is in it."""

from __future__ import annotations

import io
import re
import sys
import unicodedata

import pytest

from timm_gam.core import (
    CommandParser,
    DataError,
    UnreadableImageError,
    print_line,
    printable,
    progress_bar,
    run_command,
)
from timm_gam.core.text import guarded_output, markdown_code, markdown_text, redacted

TOKEN = "hf_" + "aBcD1234" * 4
NAMES = [
    "cat\nerror: disk full",
    "cat\r\nerror: disk full",
    "\x1b[2J\x1b]0;owned\x07cat",
    "\x9b2Jcat",
    "gnp.\u202ecat",
    "\u2066cat\u2069",
    "zero\u200bwidth\ufeff",
    "line\u2028cat\u2029",
    "\ud800cat",
    "\u3164cat",
    "tag\U000e0041",
    "error: forged",
]


def unseen(text: str) -> list[str]:
    """What a terminal would act on, or not show."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_every_character_shows() -> None:
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        shown = printable(f"a{character}b")
        if shown != f"a{character}b":
            assert shown.isascii()
            assert shown[1] == "\\"
        else:
            assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
    assert printable("é 中 😀 a\u00a0b \\n") == "é 中 😀 a\u00a0b \\n"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://me:secret@host/x", "http://***@host/x"),
        ("https://secret@host", "https://***@host"),
        ("HTTP://a:p@ss@host:80/api", "HTTP://***@host:80/api"),
        (f"no model '{TOKEN}'", "no model 'hf_***'"),
        (f"authorization: Bearer {TOKEN}", "authorization: Bearer hf_***"),
        ("git@github.com and a@b.c", "git@github.com and a@b.c"),
        ("hf_landscapes/1.jpg hf-hub:a/b http://host/a@b", "hf_landscapes/1.jpg hf-hub:a/b http://host/a@b"),
    ],
)
def test_secrets(text: str, safe: str) -> None:
    assert redacted(text) == safe
    assert str(DataError(text)) == safe


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-in-the-usual-form")
    monkeypatch.setenv("HF_ENDPOINT", "http://me:pa/ss w@hub.example/x")
    assert redacted("got not-in-the-usual-form from me:pa/ss w at http://me:pa/ss w@hub.example") == (
        "got *** from *** at http://***@hub.example"
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_error_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        print(name)
        print(name, file=sys.stderr)
        raise UnreadableImageError(name, f"{name} {TOKEN}")

    assert run_command(fail) == 2
    out, err = capsys.readouterr()
    assert unseen(out + err) == []
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert errors == err.splitlines()[-1:]
    assert TOKEN not in err
    assert not any(line.startswith("error:") for line in out.splitlines())
    with pytest.raises(SystemExit):
        CommandParser("x", "y").parse_args([f"--{name}"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_libraries_output_is_guarded_too(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded_output():
        print("a", "b\tc", end="")
        sys.stderr.write(f"\rdownloading {TOKEN}\x1b[2J\n")
        sys.stderr.write("\x1b[A\x1b[A")
        sys.stdout.write("error: in the middle of a line\nERROR: at its beginning\n")
        assert not sys.stderr.isatty()
    assert capsys.readouterr() == (
        "a b\tcerror: in the middle of a line\n ERROR: at its beginning\n",
        "\rdownloading hf_***\\x1b[2J\n\x1b[A\x1b[A",
    )


def test_a_progress_bar_names_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    with guarded_output(), progress_bar(NAMES[0] + NAMES[2] + TOKEN, "img", 3) as advance:
        advance(1)
    text = terminal.getvalue().replace("\r", "")
    assert unseen(text) == []
    assert TOKEN not in text


def test_a_line_is_printed_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    with progress_bar("training", "img", 30, initial=10) as advance:
        advance(5, "loss 1.5")
        print_line("epoch 1/3")
    before, _, after = terminal.getvalue().partition("epoch 1/3\n")
    assert before.endswith("\r")  # the bar was taken away
    assert "15/30" in after
    assert "loss 1.5" in after


@pytest.mark.parametrize("name", [*NAMES, "a|b", "[x](http://y)", "<img src=x>", "`", "``a`", "*a*", "\\"])
def test_markdown_shows_names(name: str) -> None:
    assert unseen(markdown_text(name) + markdown_code(name)) == []
    assert re.search(r"(?<!\\)[\[\]`*]|[<>|\n]", markdown_text(name).replace("\\\\", "")) is None
    fence = re.match("`+", markdown_code(name))
    assert fence is not None
    assert fence[0] not in re.findall("`+", markdown_code(name)[len(fence[0]) : -len(fence[0])])
