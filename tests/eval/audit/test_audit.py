"""The command line: every kind of fault is named, good rankings pass, every format is read, bad ones are one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.audit.__main__ import main

GOOD = {f"q{q}": {f"d{i}": 1.0 - 0.01 * ((i * 7 + q) % 20) for i in range(20)} for q in range(4)}
QRELS = {f"q{q}": {f"d{q}": 1, f"d{q + 1}": 2, f"d{q + 9}": 0} for q in range(4)}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def trec(run: dict[str, dict[str, float]]) -> str:
    lines = []
    for query, items in run.items():
        for rank, (item, score) in enumerate(sorted(items.items(), key=lambda pair: -pair[1]), 1):
            lines.append(f"{query} Q0 {item} {rank} {score} tag")
    return "\n".join(lines)


@pytest.fixture
def qrels(tmp_path: Path) -> Path:
    return write(tmp_path / "qrels.json", QRELS)


def audit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_nothing_is_wrong_with_a_good_ranking(tmp_path: Path, qrels: Path, capsys: Any) -> None:
    code, out, _ = audit(capsys, write(tmp_path / "run.txt", trec(GOOD)), "--qrels", qrels)
    assert code == 0 and "nothing found" in out and "trec_eval" in out


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("self-matches", lambda run: run["q1"].update({"q1": 9.0})),
        ("ties", lambda run: run["q1"].update(dict.fromkeys(run["q1"], 0.5))),
        ("constant scores", lambda run: run["q2"].update(dict.fromkeys(run["q2"], 0.5))),
        ("missing queries", lambda run: run.pop("q3")),
        ("cutoffs beyond the depth", lambda run: [run["q0"].pop(f"d{i}") for i in range(5, 20)]),
    ],
)
def test_faults_of_json(tmp_path: Path, qrels: Path, capsys: Any, check: str, change: Any) -> None:
    run = {query: dict(items) for query, items in GOOD.items()}
    change(run)
    code, out, _ = audit(capsys, write(tmp_path / "run.json", run), "--qrels", qrels)
    assert code == 1 and f"WRONG  {check}" in out


def test_faults_of_lines(tmp_path: Path, qrels: Path, capsys: Any) -> None:
    text = trec(GOOD)
    twice = text + "\nq0 Q0 d3 21 0.001 tag"
    code, out, _ = audit(capsys, write(tmp_path / "twice.txt", twice), "--qrels", qrels)
    assert code == 1 and "duplicates" in out and "'d3' for 'q0'" in out
    lines = text.splitlines()
    lines[0], lines[1] = (
        line.replace(" 1 ", " 2 ") if " 1 " in line else line.replace(" 2 ", " 1 ") for line in lines[:2]
    )
    code, out, _ = audit(capsys, write(tmp_path / "rising.txt", "\n".join(lines)), "--qrels", qrels)
    assert code == 1 and "rising scores" in out
    code, out, _ = audit(capsys, write(tmp_path / "nan.txt", text.replace(" 0.9 ", " nan ")), "--qrels", qrels)
    assert code == 1 and "NaN" in out


def test_a_truncated_ranking_says_what_a_longer_one_could_give(tmp_path: Path, qrels: Path, capsys: Any) -> None:
    run = {query: dict(sorted(items.items(), key=lambda pair: -pair[1])[:3]) for query, items in GOOD.items()}
    code, out, _ = audit(capsys, write(tmp_path / "run.json", run), "--qrels", qrels, "-k", "3")
    assert code == 0 and "truncation" in out and "a longer one could" in out


def test_every_format_gives_the_same_numbers(tmp_path: Path, qrels: Path, capsys: Any) -> None:
    lines = "\n".join(f"{q} 0 {i} {g}" for q, items in QRELS.items() for i, g in items.items())
    beir = "query-id\tcorpus-id\tscore\n" + "\n".join(
        f"{q}\t{i}\t{g}" for q, items in QRELS.items() for i, g in items.items()
    )
    judgements = [qrels, write(tmp_path / "qrels.txt", lines), write(tmp_path / "beir.tsv", beir)]
    meta = {
        "mteb_model_meta": {"model_name": "m", "revision": None},
        "default": {"test": GOOD, "dev": {"q0": {"d1": 1.0}}},
    }
    runs = [
        [write(tmp_path / "run.txt", trec(GOOD))],
        [write(tmp_path / "run.json", GOOD)],
        [write(tmp_path / "Task_predictions.json", meta), "--split", "test"],
    ]
    documents = []
    for run in runs:
        for judged in judgements:
            code, out, _ = audit(capsys, *run, "--qrels", judged, "--results-file", "-")
            assert code == 0
            documents.append({key: value for key, value in json.loads(out).items() if key != "ranking"})
    assert all(document == documents[0] for document in documents)


def test_neighbours_and_the_setups_of_the_revisited_sets(tmp_path: Path, capsys: Any) -> None:
    ranks = np.array([[2, 0, 1, 3], [3, 1, 0, 2]])
    gnd = [{"easy": [0], "hard": [1], "junk": [2]}, {"easy": [1, 0], "hard": [2], "junk": []}]
    np.save(tmp_path / "rows.npy", ranks)
    np.save(tmp_path / "columns.npy", ranks.T)
    truth = write(tmp_path / "gnd.json", gnd)
    expected = {"easy": (1.0, (1 / 2 + 2 / 3) / 2), "medium": (1.0, (1 / 2 + 2 / 3 + 3 / 4) / 3), "hard": (1.0, 1 / 2)}
    for setup, (first, second) in expected.items():
        for arguments in ([tmp_path / "rows.npy"], [tmp_path / "columns.npy", "--by-column"]):
            code, out, _ = audit(
                capsys, *arguments, "--qrels", truth, "--setup", setup, "-k", "1", "--results-file", "-"
            )
            assert code == 0
            assert json.loads(out)["metrics"]["map"]["mean"] == pytest.approx((first + second) / 2)
    code, _, error = audit(capsys, tmp_path / "columns.npy", "--qrels", truth)
    assert code == 2 and "ranks for 4 queries" in error and "name --by-column" in error


@pytest.mark.parametrize("scores", [{"d1": float("nan")}, {"q0": 1.0}])
def test_a_ranking_of_which_nothing_is_left_counts_as_0(scores: Any, tmp_path: Path, qrels: Path, capsys: Any) -> None:
    code, out, _ = audit(capsys, write(tmp_path / "run.json", {"q0": scores}), "--qrels", qrels)
    assert code == 1
    assert re.search(r"^map +0\.00 ", out, re.M) and "nan" not in out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.txt", None, "cannot read"),
        ("a.pkl", "x", "pickle"),
        ("short.txt", "q0 Q0 d1 1", "line 1 has 4 fields"),
        ("words.txt", "q0 Q0 d1 first 1.0 t", "line 1"),
        ("empty.txt", "", "ranks nothing"),
        ("broken.json", "{", "its content: Invalid JSON"),
        ("list.json", '{"q0": [1]}', "q0: Input should be an object; legal: a TREC run"),
        ("other.json", '{"p": {"d1": 1.0}}', "none of the"),
        ("words.json", '{"q0": {"d1": "high"}}', "q0.d1: Input should be a valid number"),
        ("deep.json", "{" + '"a":{' * 3000, "Invalid JSON"),
        ("latin.txt", b"q\xe9", "UTF-8"),
        ("bad.npy", "x", "no array"),
    ],
)
def test_bad_rankings_are_one_line(
    tmp_path: Path, qrels: Path, capsys: Any, name: str, content: str | bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = audit(capsys, path, "--qrels", qrels)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and says in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("q0 0 d1 1 2 3", "line 1 has 6 fields"),
        ("q0 0 d1 0.5", "q0.d1: Input should be a valid integer"),
        ("q0 0 d1 1\nq0 0 d1 2", "another grade"),
        ("q0 0 d1 0", "no relevant item"),
        ('[{"easy": [1]}]', "0.hard: Field required"),
        ('{"q0": {"d1": 1e99}}', "q0.d1: Unable to parse input string as an integer"),
    ],
)
def test_bad_judgements_are_one_line(tmp_path: Path, capsys: Any, content: str, says: str) -> None:
    run = write(tmp_path / "run.json", GOOD)
    code, out, err = audit(capsys, run, "--qrels", write(tmp_path / "qrels", content))
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and says in err
