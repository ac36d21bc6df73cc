"""A few hundred of the mutations of `python benchmarks/images/fuzz.py`, and what that found and what it must see."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from timm_gam.data.table.labels import LabelPart, join_labels

FUZZ = Path(__file__).resolve().parents[2] / "benchmarks" / "images" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> dict[str, Any]:
    sys.path.insert(0, str(FUZZ.parent))
    return runpy.run_path(str(FUZZ))


def test_every_mutation_is_read_or_refused(fuzz: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz["fuzz"](20_26, range(600)) == []
    out, err = capfd.readouterr()
    assert out.startswith("seed 2026: ")
    assert err == "", "libraries print nothing"


def test_what_must_be_seen_is_seen(fuzz: dict[str, Any]) -> None:
    def case(rng: object) -> None:
        raise KeyError("x")

    module = fuzz["fuzz"].__globals__
    module["cases"] = lambda folder: {"some": (1.0, case)}
    try:
        assert fuzz["fuzz"](3, range(5, 6)) == ["some: KeyError: 'x'; again: --seed 3 --only 5"]
    finally:
        module["cases"] = fuzz["cases"]


def test_numbers_of_named_classes_may_be_whole_floats() -> None:
    class Named:
        def __init__(self, *names: str) -> None:
            self.names = names

    parts = [LabelPart("train", Named("cat", "dog"), [1.0, 0.0]), LabelPart("test", Named("dog", "cat"), [0])]
    names, labels = join_labels("x", "label", parts)
    assert [names[label] for label in labels] == ["dog", "cat", "dog"]
