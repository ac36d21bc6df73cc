"""The front door of a package: the names its `__init__.pyi` imports, each fetched on first use.

So `--help` does not wait for torch, a package's public names are listed once, and type checkers read that same list.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def open_door(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package binds as `__getattr__`, `__dir__` and `__all__`.

    Args:
        package: Its `__name__`.
        file: Its `__file__`; `__init__.pyi` beside it says `from module import name as name`.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    sources = {alias.name: node.module for node in imports for alias in node.names if node.module is not None}

    def get(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module '{package}' has no attribute '{name}'; it has {', '.join(sorted(sources))}")
        return getattr(importlib.import_module(sources[name]), name)

    return get, lambda: sorted(sources), sorted(sources)
