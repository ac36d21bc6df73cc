"""A process of its own that starts at once: a fork of one that has imported torch and timm, and done nothing else.

It is killed, sent signals and waited for as any other. Where the start or the end of the interpreter is the point, a
test takes `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def start_command(module: str, argv: list[str], said: Path, **environment: str) -> AbstractContextManager[BaseProcess]:
    """`python -m MODULE ARGV`, its output and errors in the file `said`."""
    return start(_command, module, argv, said=said, **environment)


@contextmanager
def start(function: Callable[..., Any], *arguments: Any, said: Path, **environment: str) -> Iterator[BaseProcess]:
    """Call a function of a module's top level in a process, which ends with what it gives, as by `sys.exit`.

    Args:
        function: It, called with `arguments`; all of them can be pickled.
        said: The file that gets what it prints.
        environment: Variables beside those of this process.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["timm_gam", "timm", "timm_gam.embed.embedding", "torch._dynamo"])
    process = forks.Process(target=_call, args=(function, arguments, said, {**os.environ, **environment}))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_until_said(pattern: str, process: BaseProcess, said: Path) -> re.Match[str]:
    """The first match of a pattern in what a process that runs prints."""
    last = time.monotonic() + 300
    while not (said.exists() and (match := re.search(pattern, said.read_text()))):
        assert process.is_alive() and time.monotonic() < last, said.read_text()
        time.sleep(0.02)
    return match


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], said: Path, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # by TMPDIR
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(function(*arguments))


def _command(module: str, argv: list[str]) -> Any:
    return import_module(module).main(argv)
