"""What all command lines share: the parser, numbers, the progress bar, and how a command ends.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, ClassVar, NoReturn, TypeVar

from timm_gam.core.errors import TimmGamError
from timm_gam.core.signals import OutputClosedError, exit_code, handle_signals
from timm_gam.core.text import guarded_output, message_text, noticing_closed, print_error

Item = TypeVar("Item")
Number = TypeVar("Number", int, float)

ProgressBar = Callable[[str, str, int | None], AbstractContextManager[Callable[[int], None]]]
"""(what is done, unit, total) -> a context that gives a function to be called with each number of units done."""


class CommandParser(argparse.ArgumentParser):
    """A parser that keeps its text as written, takes no abbreviations, and errs in one line and exit code 2.

    Attributes:
        doors: `python -m MODULE` -> another name, by which help speaks of it where commands are run by that.
    """

    doors: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str = "",
        *,
        width: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            prog=self._by_door(prog),
            description=self._by_door(description),
            epilog=self._by_door(epilog),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=24 if width is None else 30, width=width
            ),
            allow_abbrev=False,
            **options,
        )

    def _by_door(self, text: str) -> str:
        for module, name in self.doors.items():
            text = re.sub(rf"{re.escape(module)}(?!\.?\w)", name, text)
        return text

    def error(self, message: str) -> NoReturn:
        unknown, _, rest = message.partition("unrecognized arguments: ")
        if not unknown and rest.startswith("-"):
            near = self._near(rest.split()[0].partition("=")[0])
            message += f"; did you mean {near}?" if near else ""
        print_error(f"{message}; see {self.prog} --help")
        self.exit(2)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        with contextlib.suppress(OutputClosedError), noticing_closed(sys.stdout):
            sys.stdout.flush()
        super().exit(status, message)

    def _near(self, given: str) -> str | None:
        """The long option most like what was given, if any is; dashes, which all share, do not count."""
        options = {name.lstrip("-"): name for name in self._option_string_actions if name.startswith("--")}
        wanted = given.lstrip("-").replace("_", "-").lower()
        if len(wanted) < 2:
            return next((name for name in self._option_string_actions if name.lstrip("-") == wanted), None)
        begun = [name for name in options if name.startswith(wanted)]
        near = begun[:1] or difflib.get_close_matches(wanted, options, 1, cutoff=0.65)
        return options[near[0]] if near else None


def command(
    parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], bool | None],
    *,
    interrupted: str = "interrupted",
) -> Callable[..., int]:
    """The `main` of a command line: what `parser()` makes of `argv`, by default the program's, `run_command` runs."""

    def main(argv: Sequence[str] | None = None) -> int:
        args = parser().parse_args(argv)
        return run_command(lambda: run(args), interrupted=interrupted)

    return main


def run_command(action: Callable[[], bool | None], *, interrupted: str = "interrupted") -> int:
    """Run an action to its exit code: 0 done; 2 any `TimmGamError`, one line on stderr; 130 or 143 interrupted.

    Where the output is closed, as by `| head`, it ends without a word and with 141.

    Args:
        action: What the command does; 1 where it returns True: something is not as it should be.
        interrupted: What to tell after Ctrl-C (130) or SIGTERM (143).
    """
    with guarded_output():
        try:
            wrong = action() is True
            sys.stdout.flush()
        except TimmGamError as error:
            if str(error):  # empty where another process has said why the run ends
                print_error(str(error))
            return 2
        except KeyboardInterrupt as error:
            if not isinstance(error, OutputClosedError):
                with contextlib.suppress(OutputClosedError):
                    print(interrupted, file=sys.stderr)
            return exit_code(error)
    return int(wrong)


@contextmanager
def interrupts_exit() -> Iterator[None]:
    """Let Ctrl-C end the process at once: raised within an import of torch it can come out as any other error."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    with handle_signals(leave, signal.SIGINT):
        yield


@contextlib.contextmanager
def progress_bar(
    what: str, unit: str, total: int | None = None, *, initial: int = 0, show: bool = True
) -> Iterator[Callable[..., None]]:
    """A bar with a rate on a terminal's stderr after one second, nothing elsewhere.

    It gives `advance(done, note="")`, which moves it on by so many items; the note stands behind its rate.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=initial,
        desc=message_text(what),
        unit=unit,
        delay=1,
        leave=False,
        file=sys.stderr,
        disable=None if show else True,  # None: where there is no terminal
    )

    def advance(done: int, note: str = "") -> None:
        bar.set_postfix_str(note, refresh=False)
        bar.update(done)

    with bar:
        yield advance


def no_progress(what: str, unit: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
    """A `ProgressBar` that shows nothing."""
    return nullcontext(lambda done: None)


def counted(items: Iterable[Item], advance: Callable[[int], None]) -> Iterator[Item]:
    """The items one by one, each of which moves a progress bar on."""
    for item in items:
        advance(1)
        yield item


def print_line(line: str) -> None:
    """Print a line of progress now, also into a pipe, above the bars there are."""
    tqdm = sys.modules.get("tqdm")  # without it there is no bar
    with tqdm.tqdm.external_write_mode(file=sys.stderr) if tqdm else nullcontext():
        print(line, flush=True)


def number(kind: type[Number], what: str, least: float, most: float = math.inf) -> Callable[[str], Number]:
    """What reads an option's value where it is a number within bounds; of any other it says that it is not `what`."""

    def read(text: str) -> Number:
        with contextlib.suppress(ValueError):
            if least <= kind(text) <= most:
                return kind(text)
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}")

    return read


positive = number(int, "a whole number of at least 1", 1)
count = number(int, "a whole number of at least 0", 0)
seed = number(int, "a whole number from 0 to 2^63 - 1", 0, 2**63 - 1)
share = number(float, "a number above 0 and at most 1", math.ulp(0.0), 1)
