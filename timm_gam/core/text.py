"""Text that leaves the program: nothing from data can steer a terminal or pass for an error, and no secret goes out.

Names of classes, images, columns and files, and the messages of other libraries, are whatever somebody chose.
`printable` is for each of them where it stands in a line or a table; errors do it by themselves. `guarded_output` is
for all that a command prints, whoever prints it.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from timm_gam.core.signals import OutputClosedError

_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")  # letters that show nothing
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, formats (directions, zero width), line separators
_LEFTWARDS = ("R", "AL", "AN")
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s'\"<>]*@", re.IGNORECASE)
_TOKEN = re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{16,}|(?<=\bBearer )[^\s'\"]+")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_ADDRESS_VARIABLES = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_CURSOR = re.compile(r"(\x1b\[A)+")  # all that tqdm writes at once where it goes back to another bar
_MARKDOWN = re.compile(r"[\\`*\[\]~]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"})
_FORGED = re.compile(r"(?<=[\n\r])(?=error:)", re.IGNORECASE)


def printable(text: str) -> str:
    r"""One line, every character of which shows: all others are escaped as in Python.

    Escaped are controls (line breaks, escape sequences), direction marks, characters of no width, surrogates and what
    Unicode has not assigned. A backslash stays one, so the line is for reading, not for reading back.

    >>> print(printable("cat\n\x1b[2Jerror: no\u202e \u00e9\u4e2d"))
    cat\n\x1b[2Jerror: no\u202e é中
    """
    if text.isprintable() and _FILLERS.isdisjoint(text):
        return text
    return "".join(map(_shown, text))


def page_text(text: str) -> str:
    r"""A name as a page that reads from left to right shows it: what is written from right to left moves nothing else.

    >>> page_text("dog\u202e"), page_text("\u05db\u05dc\u05d1") == "\u2068\u05db\u05dc\u05d1\u2069"
    ('dog\\u202e', True)
    """
    shown = printable(text)
    if shown.isascii() or not any(unicodedata.bidirectional(character) in _LEFTWARDS for character in shown):
        return shown
    return f"\u2068{shown}\u2069"  # first strong isolate ... pop directional isolate


def markdown_text(text: str) -> str:
    r"""A name as Markdown that shows it: no link, no code, no HTML, no end of a table's cell.

    >>> print(markdown_text("a_cat | [x](http://y) <b>"))
    a_cat &#124; \[x\](http://y) &lt;b&gt;
    """
    return _MARKDOWN.sub(r"\\\g<0>", printable(text)).translate(_ENTITIES)


def markdown_code(text: str) -> str:
    """A name as a code span that shows it.

    >>> print(markdown_code("a`b"))
    `` a`b ``
    """
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text or not text.strip() else ""
    return f"{fence}{space}{printable(text)}{space}{fence}"


def redacted(text: str) -> str:
    """The same text without passwords in addresses, Hub tokens, and the values of the variables that hold such.

    >>> redacted("no answer from https://me:secret@hub.example/api for hf_abcdefghijklmnopqrst")
    'no answer from https://***@hub.example/api for hf_***'
    """
    for secret in _secrets():
        text = text.replace(secret, "***")
    return _TOKEN.sub(lambda match: f"{match[1] or ''}***", _USER.sub(r"\1***@", text))


def message_text(text: str) -> str:
    """What an error says: one printable line without secrets."""
    return printable(redacted(text))


@contextmanager
def guarded_output() -> Iterator[None]:
    """Within: what is printed, by us or by a library, has no secrets, and no character that `printable` escapes.

    Line breaks and tabs stay, as do the moves of progress bars. No line begins with "error:".
    """
    with redirect_stdout(_guarded(sys.stdout)), redirect_stderr(_guarded(sys.stderr)):
        yield


@contextmanager
def noticing_closed(stream: TextIO) -> Iterator[None]:
    """Within: a write to a stream that nobody reads any more raises OutputClosedError; what follows goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # a stream without a file of its own
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        raise OutputClosedError from None


def print_error(message: str) -> None:
    """The one line that says why a command ends."""
    stream: Any = sys.stderr
    inner = stream.inner if isinstance(stream, _Guarded) else stream
    with suppress(OutputClosedError), noticing_closed(inner):
        print(f"error: {message_text(message)}", file=inner)


class _Guarded:
    """A text stream that writes to another one what is left of a text."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self._line_starts = True  # a line

    def write(self, text: str) -> int:
        with noticing_closed(self.inner):
            self.inner.write(text if _CURSOR.fullmatch(text) else self._safe(text))
        return len(text)

    def flush(self) -> None:
        with noticing_closed(self.inner):
            self.inner.flush()

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def _safe(self, text: str) -> str:
        text = redacted(text)
        start = "\r" if text.startswith("\r") else ""
        safe = start + "\n".join("\t".join(map(printable, line.split("\t"))) for line in text[len(start) :].split("\n"))
        before = "\n" if self._line_starts or start else " "
        if safe:
            self._line_starts = safe.endswith(("\n", "\r"))
        return _FORGED.sub(" ", before + safe)[1:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _guarded(stream: TextIO) -> TextIO:
    return stream if isinstance(stream, _Guarded) else cast(TextIO, _Guarded(stream))


def _shown(character: str) -> str:
    if unicodedata.category(character) in _UNSEEN or character in _FILLERS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def _secrets() -> list[str]:
    found = [os.environ.get(name, "") for name in _TOKEN_VARIABLES]
    for name in _ADDRESS_VARIABLES:
        user, at, _ = os.environ.get(name, "").partition("://")[2].rpartition("@")
        found += [user] if at else []
    return sorted((secret for secret in found if len(secret) > 7), key=len, reverse=True)
