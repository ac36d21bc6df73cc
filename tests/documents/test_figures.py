"""The figures of README.md and MODEL_CARD.md that no other test holds, against the committed records."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import timm

import timm_gam  # noqa: F401  registers the models
from timm_gam.models import count_macs

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
TINY = CARD.split("## The tiny family", 1)[1].split("\n## ", 1)[0]
METRICS = ("hit@1", "hit@10", "precision@10", "map")


def _cell(metric: dict[str, float]) -> str:
    return f"{100 * metric['mean']:.2f} ± {100 * metric['spread']:.2f}"


def _table(folder: str) -> dict[str, dict[str, str]]:
    record = json.loads((RECORDS / folder / "table1.json").read_text())
    return {row["name"]: {name: _cell(row["metrics"][name]) for name in METRICS} for row in record["rows"]}


def _difference(folder: str, a: str, b: str) -> list[str]:
    rows = json.loads((RECORDS / folder / "table1.json").read_text())["differences"]["map"]
    row = next(row for row in rows if {row["a"], row["b"]} == {a, b})
    return [f"{abs(100 * value):.2f}" for value in (row["mean"], *sorted(row["interval"], key=abs))]


def test_the_tiny_family_is_table_1_of_its_runs() -> None:
    rows = _table("tiny")
    for name, cells in rows.items():
        line = next(line for line in TINY.splitlines() if line.startswith(f"| `{name}`"))
        assert [cell.strip(" *") for cell in line.split("|")[2:-1]] == list(cells.values())
    for name in ("test_resnet", "test_resnet_gam", "test_resnet_se", "test_resnet_cbam"):
        assert rows[name]["map"] in README.replace("\n", " ")
    mean, low, high = _difference("tiny", "test_resnet", "test_resnet_gam")
    assert f"by {mean} points of mAP over GAM (95 % interval over queries {low} to\n{high})" in TINY


def test_the_tiny_family_at_96_px_is_table_1_of_its_runs() -> None:
    section = (ROOT / "docs" / "EVIDENCE.md").read_text(encoding="utf-8").split("## From scratch", 1)[1]
    for name, cells in _table("tiny_96px").items():
        line = next(line for line in section.splitlines() if line.startswith(f"| `{name}`"))
        columns = [cell.strip(" *") for cell in line.split("|")[2:-1]]
        assert columns[:4] == list(cells.values())
        if name != "test_resnet":
            mean, low, high = _difference("tiny_96px", "test_resnet", name)
            assert columns[4] == f"+{mean} [+{low}, +{high}]"
    gap, *_ = _difference("tiny_96px", "test_resnet", "test_resnet_gam")
    first = f"with {_table('tiny_96px')['test_resnet']['map']} mAP, {gap} points before GAM"
    assert first in TINY.replace("\n", " ")


def test_the_recipe_is_worth_what_its_runs_say() -> None:
    rows = _table("ablation")
    for rate, gates in ((10, "paper"), (1, "paper"), (10, "identity"), (1, "identity")):
        cells = rows[f"lr{rate}-{gates}"]
        assert f"| x {rate} | {gates} | {cells['hit@1']} | {cells['hit@10']} | {cells['map']} |" in TINY
    mean, low, high = _difference("ablation", "lr1-paper", "lr10-paper")
    assert f"helps by {mean} points of mAP ({low} to {high})" in TINY


@pytest.mark.parametrize("name", ["", "_se", "_cbam", "_gam"])
def test_what_ships_scores_as_recorded(name: str) -> None:
    results = json.loads((RECORDS / "coreldb_tiny.json").read_text())["results"]
    score = next(one for one in results if one["model"]["name"] == f"test_resnet{name}.corel")["metrics"]["map"]
    low, high = (100 * bound for bound in score["micro_ci95"])
    label = name.strip("_").upper() or "plain"
    assert re.search(rf"{label} {100 * score['micro']:.2f}( mAP)?.\[{low:.2f}, {high:.2f}\]", TINY.replace("\n", " "))


@pytest.mark.parametrize("record", ["coreldb_mobilenetv2_100", "coreldb_resnet50_gam_random_64px"])
def test_results_on_real_photographs_are_their_records(record: str) -> None:
    (result,) = json.loads((RECORDS / f"{record}.json").read_text())["results"]
    (row,) = (line for line in RESULTS.splitlines() if line.startswith(f"| `{result['model']['name']}` |"))
    assert f"| {result['preprocessing']['input_size'][-1]} px |" in row
    for name in METRICS:
        metric = result["metrics"][name]
        low, high = (100 * bound for bound in metric["micro_ci95"])
        assert f" {100 * metric['micro']:.2f} [{low:.2f}, {high:.2f}] |" in row


def test_results_of_our_own_training_are_those_of_the_cards() -> None:
    maps = [cells["map"] for cells in _table("tiny").values()]
    maps += re.findall(r"\d\d\.\d\d ± \d\.\d\d", RESULTS.partition("The ResNet50 family")[2])
    evidence = (ROOT / "docs" / "EVIDENCE.md").read_text(encoding="utf-8")
    assert len(maps) == 8
    assert [figure for figure in maps[:4] if figure not in RESULTS] == []
    assert [figure for figure in maps[4:] if figure not in evidence] == []


def test_hours_and_images_are_those_of_the_runs() -> None:
    seconds = 0.0
    for path in (RECORDS / "tiny").glob("*/metrics.csv"):
        with path.open(newline="") as file:
            seconds += sum(float(row["seconds"]) for row in csv.DictReader(file))
    assert f"{seconds / 3600:.1f} hours" in README
    data = json.loads((RECORDS / "tiny" / "test_resnet-0" / "data.json").read_text())
    assert f"{data['images']['train']:,} small photographs" in CARD
    assert "2,158 test images" in re.sub(r"\s+", " ", TINY)
    assert json.loads((RECORDS / "tiny" / "table1.json").read_text())["data"]["test_images"] == 2158


def test_gam_costs_six_times_its_backbone_and_the_tiny_ones_four_megabytes() -> None:
    plain, gam = (timm.create_model(name, device="meta") for name in ("resnet50", "resnet50_gam"))
    assert round(count_macs(gam, (3, 224, 224)) / count_macs(plain, (3, 224, 224))) == 6
    sizes = [path.stat().st_size for path in (ROOT / "timm_gam/models/shipped").glob("*/*.safetensors")]
    assert len(sizes) == 4
    assert round(sum(sizes) / 1e6) == 4
