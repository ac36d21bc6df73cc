"""Many models: kept and not scored twice, failures listed with their reason, order and groups that hold by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import eval as evaluation
from eval.leaderboard.__main__ import main
from eval.leaderboard.runs import run_models
from eval.results.result import Settings
from eval.tables.standings import standings
from tests.helpers import write_class_folders

NO_INTERVALS = Settings(intervals="none")


def noisy(name: str, noise: float, seed: int) -> evaluation.RetrievalResult:
    labels = np.repeat(np.arange(10), 12)
    rng = np.random.default_rng(seed)
    return evaluation.score(
        np.eye(10)[labels] + noise * rng.normal(size=(120, 10)), labels, name=name, settings=NO_INTERVALS
    )


def test_order_groups_and_place_intervals() -> None:
    results = [noisy("worst", 9.0, 0), noisy("good", 0.9, 1), noisy("as good", 0.9, 5), noisy("middling", 1.5, 3)]
    order = standings(results)
    assert [one.result.name for one in order][2:] == ["middling", "worst"]
    assert [one.place for one in order] == [1, 2, 3, 4]
    assert order[0].group == order[1].group != order[2].group != order[3].group
    assert order[0].place_interval == (1, 2) or order[0].place_interval == (1, 1)
    assert order[3].place_interval == (4, 4)
    assert all(low <= one.place <= high for one in order for low, high in [one.place_interval])


def test_results_of_other_queries_are_refused() -> None:
    other = evaluation.score(np.eye(4), [0, 0, 1, 1], settings=NO_INTERVALS)
    with pytest.raises(evaluation.DataError):
        standings([noisy("a", 0.5, 0), other])
    with pytest.raises(evaluation.DataError, match="no results"):
        standings([])


def test_command_line_keeps_what_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=4)
    board = tmp_path / "board"
    models = ["test_resnet_se.corel", "<b>no model"]
    options = [
        "--model",
        *models,
        "--data-dir",
        str(photos),
        "--output",
        str(board),
        "--",
        "-j",
        "0",
        "--interval",
        "queries",
    ]
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "not scored" in out and "wrote" in out
    page = (board / "leaderboard.html").read_text()
    assert "test_resnet_se.corel" in page and "&lt;b&gt;no model" in page and "<b>no model" not in page
    assert "http" not in page, "it needs no network"
    assert len((board / "results.csv").read_text().splitlines()) == 2
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("finished models are not scored again"))
    assert main(["--model", *models[:1], *options[3:]]) == 0
    assert main([*options[:-1], "10"]) == 2
    assert "other options" in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.leaderboard.runs.available_memory", lambda: 10**6)
    (run,) = run_models(["resnet50_gam"], [], tmp_path / "board")
    assert run.result is None and "151 M parameters" in run.reason


def test_nothing_to_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", "test_resnet", "--output", str(tmp_path / "b")])
    assert main(["--model", "zzz*", "--dataset", "synthetic", "--output", str(tmp_path / "b")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
