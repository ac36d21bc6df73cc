"""Comparing runs: permutation tests and adjustments against SciPy and by hand, and the table of a whole experiment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import timm
import torch

from eval import compare, holm, p_over_queries, p_over_runs, summarise
from eval.table1 import main
from tests.timm_gam.train.helpers import SMALL
from timm_gam.models import count_macs
from timm_gam.train import Recipe


def test_the_test_over_queries_agrees_with_all_sign_patterns() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1.0, 14)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 14)).reshape(14, -1).T
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean()
    assert p_over_queries(differences, permutations=40_000) == pytest.approx(exact, abs=0.01)
    oracle = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue  # fmt: skip
    assert exact == pytest.approx(oracle)


def test_no_difference_and_a_sure_one() -> None:
    assert p_over_queries(np.zeros(50)) == 1.0
    assert p_over_queries(np.ones(50)) == pytest.approx(1 / 10_001)


def test_the_test_over_runs_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 4), rng.normal(1, 1, 5)
    oracle = scipy.stats.permutation_test(
        (a, b), lambda x, y: abs(np.mean(x) - np.mean(y)), n_resamples=np.inf, alternative="greater"
    )
    assert p_over_runs(a, b)[0] == pytest.approx(oracle.pvalue)
    assert p_over_runs([3, 4, 5], [0, 1, 2]) == (0.1, 0.1)  # 2 of the 20 ways to deal are as far apart
    assert p_over_runs([1.0], [0.0]) == (1.0, 1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_summary_and_differences() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(60) % 4
    shared = rng.random(60)
    models = {
        "a": np.stack([shared + 0.1, shared + 0.2]),
        "b": np.stack([shared, shared + 0.1]),
        "c": np.stack([shared + rng.normal(0, 1, 60), shared]),
    }
    summary = summarise(models["a"], labels)
    assert summary.mean == pytest.approx(shared.mean() + 0.15)
    assert summary.spread == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert summary.interval[0] < summary.mean < summary.interval[1]
    by_pair = {(d.a, d.b): d for d in compare(models, labels)}
    assert list(by_pair) == [("a", "b"), ("a", "c"), ("b", "c")]
    ab = by_pair["a", "b"]
    assert ab.mean == pytest.approx(0.1)
    assert ab.interval == pytest.approx((0.1, 0.1))  # pairing takes the spread of queries away
    assert ab.p_queries == pytest.approx(3 / 10_001)  # Holm: times the three pairs
    assert ab.p_runs_least == pytest.approx(1 / 3)


def test_macs_are_those_of_the_literature() -> None:
    assert count_macs(timm.create_model("resnet50", device="meta"), (3, 224, 224)) / 1e9 == pytest.approx(
        4.089, abs=1e-3
    )
    assert count_macs(timm.create_model("resnet50_gam", device="meta"), (3, 224, 224)) / 1e9 == pytest.approx(
        24.641, abs=1e-3
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device that is not there is CUDA")
def test_table_1_is_scored_where_training_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe that names no device means CUDA where there is one."""
    folder = tmp_path / "test_resnet-0"
    folder.mkdir()
    (folder / "config.yaml").write_text(Recipe().as_yaml())
    (folder / "evaluation.json").write_text("{}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["--collect", "--output", str(tmp_path)]) == 2
    assert "device 'cuda' cannot be used" in capsys.readouterr().err


def test_table_1_in_one_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, output = tmp_path / "r.yaml", tmp_path / "table"
    config.write_text(Recipe(**{**SMALL, "epochs": 1}).as_yaml())
    command = ["--family", "test_resnet", "--seeds", "0", "1", "--config", str(config), "--data-dir", str(photos)]
    assert main([*command, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.count(f"training {output}") == 8
    assert "| `test_resnet_gam` | 2 | 0.68 M |" in said
    assert "| 79.18 | 91.93 |" in said
    document = json.loads((output / "table1.json").read_text())
    assert [row["name"] for row in document["rows"]] == [f"test_resnet{v}" for v in ("", "_se", "_cbam", "_gam")]
    assert len(document["differences"]["map"]) == 6
    for row in document["rows"]:
        for seed, value in zip(row["seeds"], row["metrics"]["map"]["runs"], strict=True):
            record = json.loads((output / f"{row['name']}-{seed}" / "evaluation.json").read_text())
            assert record["results"][0]["metrics"]["map"]["micro"] == pytest.approx(value, abs=1e-12)
    # Again: what is there is kept, what is missing is trained.
    (output / "test_resnet_se-1" / "evaluation.json").unlink()
    assert main([*command, "--output", str(output)]) == 0
    assert capsys.readouterr().out.count("resuming ") == 1
    assert main(["--collect", "--output", str(output)]) == 0
    again = json.loads((output / "table1.json").read_text())
    by_name = {row["name"]: row["metrics"] for row in again["rows"]}
    assert by_name == {row["name"]: row["metrics"] for row in document["rows"]}
    _refuses_other_images(output, capsys)
    config.write_text(Recipe(**{**SMALL, "epochs": 2}).as_yaml())
    assert main([*command, "--output", str(output)]) == 2
    assert "was trained with epochs = 1, not 2" in capsys.readouterr().err
    assert main(["--collect", "--output", str(tmp_path / "nothing")]) == 2
    assert "no finished runs" in capsys.readouterr().err


def _refuses_other_images(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for name, key, said in (
        ("data.json", "trained_on", "'test_resnet-0' and 'test_resnet-1' were not trained on the same images"),
        ("evaluation.json", "fingerprint", "'test_resnet-1' was tested on other images than"),
    ):
        record = output / "test_resnet-1" / name
        before = record.read_text()
        known = re.search(rf'"{key}": "(\w+)"', before)
        assert known
        record.write_text(before.replace(known[1], "0" * 64))
        assert main(["--collect", "--output", str(output)]) == 2
        assert said in capsys.readouterr().err
        record.write_text(before)
