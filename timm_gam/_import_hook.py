"""Import one module as soon as another has been imported, without importing that one now."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def register_when_imported(package: str, module: str) -> None:
    """Import `module` right after the first import of `package`."""
    sys.meta_path.insert(0, _Finder(package, module))


class _Finder(MetaPathFinder):
    def __init__(self, package: str, module: str) -> None:
        self.package, self.module = package, module

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.package:
            return None
        sys.meta_path.remove(self)  # the others find the package itself
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run, module = spec.loader.exec_module, self.module

            def run_and_import(made: ModuleType) -> None:
                run(made)
                importlib.import_module(module)

            spec.loader.exec_module = run_and_import  # type: ignore[method-assign,assignment]  # of this loader alone
        return spec
