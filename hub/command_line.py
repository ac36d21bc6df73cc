"""What the command lines of this package share: how they print, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from eval.errors import EvalError
from hub.errors import PublishError

__all__ = ["exit_code", "print_line"]


def exit_code(action: Callable[[], None]) -> int:
    """Run an action: 0 done, 2 refused or failed (one line on stderr), 130 interrupted."""
    try:
        action()
    except (PublishError, EvalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; a repository is published whole or not at all, run the same command again", file=sys.stderr)
        return 130
    return 0


def print_line(line: str) -> None:
    """Print a line of progress now, also into a pipe."""
    print(line, flush=True)
