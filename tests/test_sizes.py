"""Folders, files and functions stay small enough to be read whole."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("timm_gam", "eval", "hub", "tests", "benchmarks")
FILES, LINES, BODY = 12, 300, 60


def _modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_a_folder_has_few_files() -> None:
    count = Counter(path.parent for path in _modules() if path.name not in ("__init__.py", "conftest.py"))
    assert {str(folder): files for folder, files in count.items() if files > FILES} == {}


def test_a_file_is_short() -> None:
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _modules()}
    assert {path: count for path, count in lines.items() if count > LINES} == {}


def test_a_function_is_short() -> None:
    long = {}
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (node.end_lineno or 0) - body[0].lineno >= BODY:
                    long[f"{path}:{node.lineno} {node.name}"] = (node.end_lineno or 0) - body[0].lineno + 1
    assert long == {}
