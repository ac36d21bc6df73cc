"""Mutated files of every kind that is read: each is read, or refused in one line of the project's own errors.

    python benchmarks/images/fuzz.py                          # 20,000 mutations, about a minute
    python benchmarks/images/fuzz.py --seed 7 --count 500
    python benchmarks/images/fuzz.py --seed 7 --only 123      # that one again, with its traceback

Any other exception, a hang, or a value that an independent reading contradicts is a failure, printed with what makes it
again. Exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import collections
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
from fuzz_cases import cases

from timm_gam.core import (
    CommandParser,
    TimmGamError,
    count,
    positive,
    printable,
    progress_bar,
    run_command,
    seed,
)

PATIENCE = 20  # seconds; a limit of the decoder's own is hit before


class HangError(BaseException):
    """One case took longer than PATIENCE."""


def fuzz(seed: int, numbers: range, on_progress: Callable[[int], None] = lambda done: None) -> list[str]:
    """What failed, a line each."""
    failures = []
    done: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="timm-gam-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = cases(Path(folder))
        for number in numbers:
            rng = np.random.default_rng([seed, number])
            name = str(rng.choice(list(table), p=[share for share, _ in table.values()]))
            try:
                with _time_limit():
                    table[name][1](rng)
                done["read"] += 1
            except TimmGamError:
                done["refused"] += 1
            except (Exception, HangError) as error:
                what = printable(f"{type(error).__name__}: {error}")[:200]
                failures.append(f"{name}: {what}; again: --seed {seed} --only {number}")
                if len(numbers) == 1:
                    traceback.print_exc()
            on_progress(1)
    print(f"seed {seed}: {done['read']:,} read, {done['refused']:,} refused, {len(failures):,} failed")
    return failures


@contextmanager
def _time_limit() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise HangError(f"longer than {PATIENCE} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    parser = CommandParser(
        "python benchmarks/images/fuzz.py", "Read mutated files of every kind.", "exit codes: 0, 1 failed"
    )
    parser.add_argument("--count", type=positive, default=20_000, metavar="N", help="mutations (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="(default: 0)")
    parser.add_argument("--only", type=count, metavar="NUMBER", help="one mutation, with its traceback")
    args = parser.parse_args()
    failures: list[str] = []

    def run(args: argparse.Namespace = args) -> None:
        numbers = range(args.count) if args.only is None else range(args.only, args.only + 1)
        began = time.perf_counter()
        with progress_bar("mutating", "case", len(numbers)) as on_progress:
            failures.extend(fuzz(args.seed, numbers, on_progress))
        print("\n".join([*failures, f"{time.perf_counter() - began:.0f} s"]))

    return run_command(run) or int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
