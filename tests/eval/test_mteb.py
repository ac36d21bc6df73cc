"""An image task through MTEB's own evaluation: our numbers, its numbers, and the fault of counting the query itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

import eval as evaluation  # noqa: E402
from eval.audit.__main__ import main as audit  # noqa: E402
from eval.mteb import timm_encoder  # noqa: E402
from timm_gam.data import draw_synthetic  # noqa: E402
from timm_gam.embed import EmbedSettings  # noqa: E402

MODEL = "test_resnet_gam.corel"
IMAGES = 4


def task(*, ignore_identical_ids: bool, self_relevant: bool) -> Any:
    """Leave-one-out retrieval over drawn images as an MTEB task that needs no network."""
    from datasets import Dataset

    drawn = draw_synthetic(IMAGES)
    names = [f"i{row:03d}" for row in range(len(drawn))]
    pictures = [image for _, image in drawn.reader.read(range(len(drawn)))]
    relevant = {
        query: {
            item: 1
            for other, item in enumerate(names)
            if drawn.labels[row] == drawn.labels[other] and (row != other or self_relevant)
        }
        for row, query in enumerate(names)
    }

    class Drawn(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="DrawnI2IRetrieval",
            description="Images drawn by code.",
            reference=None,
            dataset={"path": "none", "revision": "1"},
            type="Any2AnyRetrieval",
            category="i2i",
            modalities=["image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="hit_rate_at_1",
        )

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            items = Dataset.from_dict({"id": names, "image": pictures})
            split = RetrievalSplitData(queries=items, corpus=items, relevant_docs=relevant, top_ranked=None)
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    Drawn.ignore_identical_ids = ignore_identical_ids
    return Drawn(), relevant


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    """Our scores of the same model on the same images."""
    drawn = draw_synthetic(IMAGES)
    loaded = evaluation.load_model(MODEL)
    preprocessing = evaluation.resolve_preprocessing(loaded.model).transform()
    network = evaluation.embedding_network(loaded.model)
    vectors = evaluation.embed_images(network, drawn, preprocessing, EmbedSettings(workers=0)).vectors
    averages = evaluation.score_retrieval(vectors, drawn.labels, ks=(1, 5, 10), intervals="none").averages
    return {name: float(average.micro) for name, average in averages.items()}


def run(tmp_path: Path, **options: bool) -> tuple[dict[str, float], Path, Path]:
    drawn, relevant = task(**options)
    encoder = timm_encoder(MODEL)
    result = mteb.evaluate(encoder, drawn, cache=None, prediction_folder=tmp_path, show_progress_bar=False)
    qrels = tmp_path / "qrels.json"
    qrels.write_text(json.dumps(relevant))
    scores = result.task_results[0].scores["test"][0]
    return scores, tmp_path / "DrawnI2IRetrieval_predictions.json", qrels


@pytest.mark.filterwarnings("ignore")
def test_numbers_are_ours_where_the_query_is_left_out(tmp_path: Path, expected: dict[str, float]) -> None:
    scores, _, _ = run(tmp_path, ignore_identical_ids=True, self_relevant=False)
    # MTEB rounds to 5 digits and searches in float32, so near ties may swap: that is all the difference there is.
    pairs = {
        "precision_at_1": "precision@1",
        "hit_rate_at_5": "hit@5",
        "recall_at_10": "recall@10",
        "ndcg_at_10": "ndcg@10",
        "map_at_1000": "map",
        "mrr_at_1000": "mrr",
    }
    for theirs, ours in pairs.items():
        assert scores[theirs] == pytest.approx(expected[ours], abs=2e-3), theirs


@pytest.mark.filterwarnings("ignore")
def test_counting_the_query_itself_is_seen(
    tmp_path: Path, expected: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    scores, predictions, qrels = run(tmp_path, ignore_identical_ids=False, self_relevant=True)
    assert scores["hit_rate_at_1"] > 0.99, "every query finds itself"
    assert expected["hit@1"] < 0.9
    code = audit([str(predictions), "--qrels", str(qrels), "-k", "1", "--results-file", "-"])
    document = json.loads(capsys.readouterr().out)
    assert code == 1
    assert document["findings"][0]["check"] == "self-matches"
    assert (
        "precision@1 100.00 with" in document["findings"][0]["text"]
        or "hit@1 100.00 with" in document["findings"][0]["text"]
    )
    assert document["metrics"]["hit@1"]["mean"] == pytest.approx(expected["hit@1"], abs=2e-3)
    printed = {(row["library"], row["name"]): row["value"] for row in document["conventions"]}
    assert printed["trec_eval (success), MTEB (hit_rate)", "success_1"] == pytest.approx(
        scores["hit_rate_at_1"], abs=1e-5
    )
    assert np.isfinite(list(printed.values())).all()
