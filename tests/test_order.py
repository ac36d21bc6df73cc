"""The rooms stand in one order: an import goes down, through the door of the other room."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "data", "images", "models", "inference", "embed", "rerank", "search", "train", "export")
ORDER = [*(f"timm_gam.{room}" for room in ROOMS), "eval", "hub"]
UPWARD = {"timm_gam/train/__main__.py": "eval", "timm_gam/train/table1.py": "eval"}
"""Command lines that train and score: the documented doors."""


def _room(module: str) -> str:
    return next((room for room in ORDER if f"{module}.".startswith(f"{room}.")), module.partition(".")[0])


def test_imports_go_down_through_doors() -> None:
    wrong = []
    for path in sorted(p for package in ("timm_gam", "eval", "hub") for p in (ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        here = _room(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for there in (m for m in modules if m.partition(".")[0] in ("timm_gam", "eval", "hub")):
                room = _room(there)
                if room == here or room == "timm_gam" or here == "timm_gam":  # the zoo's own front door
                    continue
                through_door = there == room or UPWARD.get(name) == room
                down = ORDER.index(room) < ORDER.index(here) or UPWARD.get(name) == room
                if not (down and through_door):
                    wrong.append(f"{name}:{node.lineno} imports {there}")
    assert wrong == []


def test_no_name_of_a_door_is_hidden_by_a_module() -> None:
    for room in ORDER:
        folder = ROOT / room.replace(".", "/")
        stub = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
        names = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not names & {path.stem for path in folder.iterdir()}
