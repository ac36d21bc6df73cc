"""A saved result in every format is read back to the same numbers: by trec_eval, our audit, pandas, the Hub."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import eval as evaluation
from eval.audit.audit import audit_ranking
from eval.audit.formats import read_qrels, read_ranking
from eval.convert import main
from eval.results.result import RetrievalResult, Settings

KS = (1, 5, 10)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrievalResult, Path]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 10)
    vectors = rng.normal(size=(80, 6)) + np.eye(8)[labels][:, :6] * 2
    ids = [f"class {label}/photo {row}%.jpg" for row, label in enumerate(labels)]
    made = evaluation.score(vectors, labels, ids=ids, settings=Settings(ks=KS, intervals="none"))
    path = tmp_path_factory.mktemp("results") / "result.safetensors"
    made.save(path)
    return made, path


def test_trec_files_give_the_metrics_again(result: tuple[RetrievalResult, Path], tmp_path: Path) -> None:
    made, path = result
    run, qrels = tmp_path / "run.txt", tmp_path / "qrels.txt"
    assert main([str(path), str(run), "--to", "trec"]) == main([str(path), str(qrels), "--to", "qrels"]) == 0
    found = audit_ranking(read_ranking(run), read_qrels(qrels), ks=KS)
    assert found.findings == [], "white space in ids does not split them, and the whole gallery is ranked"
    for name, average in made.averages.items():
        assert found.measures[name].mean == pytest.approx(average.micro, abs=1e-12), name
    pytrec_eval = pytest.importorskip("pytrec_eval")
    with run.open() as ranked, qrels.open() as judged:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(judged), {"map", "recip_rank"})
        theirs = evaluator.evaluate(pytrec_eval.parse_run(ranked)).values()
    assert np.mean([row["map"] for row in theirs]) == pytest.approx(made.averages["map"].micro, abs=1e-12)
    assert np.mean([row["recip_rank"] for row in theirs]) == pytest.approx(made.averages["mrr"].micro, abs=1e-12)


def test_a_saved_result_is_audited_as_it_is(
    result: tuple[RetrievalResult, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.audit.__main__ import main as run_audit

    made, path = result
    assert run_audit([str(path), "--results-file", "-"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["map"]["mean"] == pytest.approx(made.averages["map"].micro, abs=1e-12)


def test_mteb_predictions(result: tuple[RetrievalResult, Path], tmp_path: Path) -> None:
    made, path = result
    out, qrels = tmp_path / "Task_predictions.json", tmp_path / "qrels.json"
    assert main([str(path), str(out), "--to", "mteb", "--depth", "10"]) == 0
    classes = [made.class_names[label] for label in made.labels]
    judgements = {q: {i: int(classes[a] == classes[b]) for b, i in enumerate(made.ids)} for a, q in enumerate(made.ids)}
    qrels.write_text(json.dumps(judgements))
    found = audit_ranking(read_ranking(out), read_qrels(qrels), ks=KS)
    assert found.measures["precision@10"].mean == pytest.approx(made.averages["precision@10"].micro, abs=1e-12)


def test_parquet(result: tuple[RetrievalResult, Path], tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    made, path = result
    assert main([str(path), str(tmp_path / "r.parquet"), "--to", "parquet", "--depth", "5"]) == 0
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert len(table) == 80 * 5 and table["rank"].max() == 5
    assert table["relevant"].mean() == pytest.approx(made.averages["precision@5"].micro)
    assert ((table["query_class"] == table["item_class"]) == table["relevant"]).all()


def test_the_hub_reads_the_evaluation_file(
    result: tuple[RetrievalResult, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub._eval_results import parse_eval_result_entries

    made, path = result
    out = tmp_path / "corel.yaml"
    assert main([str(path), str(out), "--to", "eval-results", "--dataset", "timm-gam/corel"]) == 0
    entries = parse_eval_result_entries(yaml.safe_load(out.read_text()))
    values = {entry.task_id: entry.value for entry in entries}
    assert values["map"] == pytest.approx(100 * made.averages["map"].micro, abs=1e-4)
    assert {entry.dataset_id for entry in entries} == {"timm-gam/corel"}
    assert main([str(path), str(out), "--to", "eval-results"]) == 2
    assert main([str(path), str(out), "--to", "eval-results", "--dataset", "a/b/c"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_row_of_timms_results(result: tuple[RetrievalResult, Path], tmp_path: Path) -> None:
    made, path = result
    assert main([str(path), str(tmp_path / "row.csv"), "--to", "timm-csv"]) == 0
    head, row = (tmp_path / "row.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), row.split(","), strict=True))
    assert cells["model"] == "vectors" and float(cells["map"]) == pytest.approx(
        100 * made.averages["map"].micro, abs=1e-3
    )


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"x")
    for path in (tmp_path / "missing.safetensors", tmp_path / "no.safetensors"):
        assert main([str(path), str(tmp_path / "out"), "--to", "trec"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        "eval.retrieval --model test_resnet.corel --data-dir photos --save a --report ./a",
        "eval.retrieval --model test_resnet=kept --data-dir photos --save kept",
        "eval.retrieval --model test_resnet --checkpoint kept --data-dir photos --report kept",
        "eval.convert kept kept --to trec",
        "eval.report kept --output kept",
        "eval.audit kept --results-file kept",
        "eval.replay kept --data-dir photos --results-file kept",
        "eval.gates --model test_resnet_gam --checkpoint kept --data-dir photos --results-file kept",
        "eval.head --model test_resnet --checkpoint kept --data-dir photos --output kept",
        "eval.approximate kept --save kept",
        "eval.approximate vectors.npy --save index --results-file index.json",
        "eval.demo --report page --results-file page",
    ],
)
def test_no_command_writes_over_what_it_reads_or_writes(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept").write_bytes(b"kept")
    module, *arguments = command.split()
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    assert main(arguments) == 2
    assert re.search("^error: cannot write .*(twice|what is read)", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and Path("kept").read_bytes() == b"kept"
