"""Publishing one model, over a real socket, with the real clients."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import markdown
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from hub.publish import main
from tests.hub.runs import evaluate_checkpoint, write_checkpoint
from tests.loopback_hub import TOKEN, LoopbackHub
from tests.timm_gam.train.helpers import small_recipe, train_quietly, write_shapes

REPO = "timm-gam/test_resnet_gam.corel"


def publish(checkpoint: Path, *arguments: str, model: str = "test_resnet_gam.corel") -> int:
    return main([model, "--checkpoint", str(checkpoint), *arguments])


def names(hub: LoopbackHub, repo: str = REPO) -> set[str]:
    return set(hub.head("models", repo).files)


def test_a_run_is_published_in_one_commit_and_proved(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(run, "--revision", "v1.0") == 0
    said = capsys.readouterr()
    assert "proved  equal tensors and logits, pulled into empty caches by pretrained=True and hf-hub:" in said.out
    assert f"{hub.url}/{REPO}" in said.out
    assert TOKEN not in said.out + said.err
    repository = hub.repository("models", REPO)
    assert len(repository.commits) == 2, "the empty one, and ours"
    assert repository.tags == {"v1.0": repository.head.id}
    assert names(hub) == {
        "README.md", "retrieval.webp", "config.json", "evaluation.json", "model.safetensors",
        "training/config.yaml", "training/data.json", "training/environment.json", "training/metrics.csv",
    }  # fmt: skip
    assert hub.tokens_at_store == [], "the token goes to the endpoint only"
    out = hub.copy_out("models", REPO, tmp_path / "out")
    sent, made = load_file(out / "model.safetensors"), load_file(run / "best.safetensors")
    assert sent.keys() == made.keys()
    assert all(torch.equal(sent[n], made[n]) for n in made)
    assert json.loads((out / "evaluation.json").read_text()) == json.loads((run / "evaluation.json").read_text())
    assert "secret" not in (out / "training/config.yaml").read_text(), "paths of the machine stay on it"
    said = json.loads((out / "evaluation.json").read_text())["results"][0]["preprocessing"]
    row = next(line for line in (out / "README.md").read_text().splitlines() if line.startswith("| preprocessing |"))
    assert all(f"{name} {value}" in row for name, value in said.items())

    assert publish(run, "--revision", "v1.0") == 0
    assert "nothing to change" in capsys.readouterr().out
    assert len(repository.commits) == 2


def test_results_lie_where_the_hub_reads_them(run: Path, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    from huggingface_hub import parse_eval_result_entries

    assert publish(run, "--dataset", "somebody/photos") == 0
    out = hub.copy_out("models", REPO, tmp_path / "out")
    entries = parse_eval_result_entries(yaml.safe_load((out / ".eval_results/retrieval.yaml").read_text()))
    record = json.loads((run / "evaluation.json").read_text())["results"][0]["metrics"]
    assert {entry.dataset_id for entry in entries} == {"somebody/photos"}
    assert {e.task_id: e.value for e in entries} == {
        name: pytest.approx(100 * record[name]["micro"], abs=1e-4)
        for name in ("hit@1", "hit@10", "precision@10", "ndcg@10", "map")
    }
    assert ModelCard.load(out / "README.md").data.datasets == ["somebody/photos"]


def test_a_card_of_other_photos_says_nothing_of_corel_and_shows_hostile_names(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    data = json.loads((other / "data.json").read_text())
    hostile = "<img src=x onerror=alert(1)> | [x](http://y)"
    data |= {"name": hostile, "class_names": [f"{hostile} {number}" for number in range(80)]}
    (other / "data.json").write_text(json.dumps(data))
    assert publish(other, "--namespace", "me", model="test_resnet_gam.mine") == 0
    text = (hub.copy_out("models", "me/test_resnet_gam.mine", tmp_path / "out") / "README.md").read_text()
    ModelCard(text).validate()
    page = markdown.markdown(text.split("---\n", 2)[2], extensions=["tables", "fenced_code"])
    assert re.findall(r'<img[^>]*src="([^"]*)"', page) == ["retrieval.webp"] and 'href="http://y"' not in page
    assert "<img src=x" not in page
    introduction = text.split("# ", 1)[1].split("```")[0]
    assert "COREL" not in introduction and "What the paper reports" not in text
    assert "Of 160 queries" in introduction
    assert page.index("<p>") < page.index("<img") < page.index("<table>")
    with Image.open(tmp_path / "out" / "retrieval.webp") as picture:
        assert picture.size == (7 * 150 + 18, 3 * 102 + 6), "three queries, and six found for each"


def test_the_card_says_what_the_record_says(run: Path, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    assert publish(run) == 0
    text = (hub.copy_out("models", REPO, tmp_path / "out") / "README.md").read_text()
    card = ModelCard(text)
    card.validate()
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-feature-extraction", "apache-2.0")
    assert (data.base_model, data.datasets) == ("somebody/backbone", None), "no record names a data set of the Hub"
    assert "transformers" not in data.tags
    record = json.loads((run / "evaluation.json").read_text())["results"][0]["metrics"]
    listed = {result.metric_name: result.metric_value for result in data.eval_results}
    assert 1 <= len(listed) <= 5
    assert listed == {name: pytest.approx(record[name]["micro"], abs=1e-6) for name in listed}
    first_code = text.split("```python\n")[1].split("```")[0]
    assert first_code.splitlines()[:2] == [
        "import timm",
        'import timm_gam  # registers the models; without this import timm answers "Unknown model"',
    ]
    bounds = record["map"]["micro_ci95"]  # None where the data are too few for an interval, as these may be
    interval = f" [{100 * bounds[0]:.2f}, {100 * bounds[1]:.2f}]" if bounds else ""
    assert f"| map | {100 * record['map']['micro']:.2f}{interval} |" in text
    assert "What the paper reports" not in text  # another network
    for heading in ("Intended use and limits", "Model", "Training", "Evaluation", "Citation"):
        assert f"\n## {heading}\n" in text


def test_timm_reads_the_config(run: Path, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    assert publish(run) == 0
    out = hub.copy_out("models", REPO, tmp_path / "out")
    for name in (f"hf-hub:{REPO}", f"local-dir:{out}"):
        model = timm.create_model(name, pretrained=True)
        assert (model.num_classes, model.pretrained_cfg["input_size"]) == (80, (3, 32, 32)), name
        assert model.pretrained_cfg["label_names"][:3] == ["class0", "class1", "class2"]


def test_float16(run: Path, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    assert publish(run, "--fp16") == 0
    out = hub.copy_out("models", REPO, tmp_path / "out")
    halves, whole = load_file(out / "model.safetensors"), load_file(run / "best.safetensors")
    assert all(torch.equal(halves[n], t.half() if t.is_floating_point() else t) for n, t in whole.items())
    assert "before they were rounded to float16" in (out / "README.md").read_text()


def test_a_plain_baseline_is_pulled_by_its_page(hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "plain.safetensors", "test_resnet")
    assert publish(checkpoint, "--license", "apache-2.0", model="test_resnet.corel") == 0
    text = (hub.copy_out("models", "timm-gam/test_resnet.corel", tmp_path / "out") / "README.md").read_text()
    assert 'timm.create_model("hf-hub:timm-gam/test_resnet.corel", pretrained=True' in text
    assert "have not been scored; no figure is claimed" in text
    assert "model-index" not in text


@pytest.mark.parametrize("test_split", ["fewer classes", "other classes", "none"])
def test_classes_are_those_of_the_training_data_whatever_was_scored(
    test_split: str, hub: LoopbackHub, token: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for split in ("train", "test"):
        write_shapes(data / split, classes=4, images=8)
    lost = sorted((data / "test").iterdir())[0]
    if test_split == "none":
        shutil.rmtree(data / "test")
        shutil.copytree(data / "train", data / "val")
    elif test_split == "other classes":
        for folder in sorted((data / "test").iterdir()):
            folder.rename(folder.with_name(f"new {folder.name}"))
    else:
        shutil.rmtree(lost)
    recipe = small_recipe(data_dir=str(data), epochs=1)
    run = train_quietly(recipe, tmp_path / "run")
    names = [path.name for path in sorted((data / "train").iterdir())]
    command = ["--out", str(tmp_path / "out"), "--license", "mit"]
    assert publish(run.path, *command, model="test_resnet_gam.mine") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_classes"], config["label_names"]) == (4, names)
    assert (tmp_path / "out" / "evaluation.json").exists() == (test_split != "none")


def test_a_tag_never_moves(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(run, "--revision", "v1") == 0
    before = hub.head("models", REPO).id
    other = write_checkpoint(tmp_path / "other.safetensors", seed=1)
    assert publish(other, "--revision", "v1") == 2
    assert "has the tag 'v1' at" in capsys.readouterr().err
    assert hub.head("models", REPO).id == before
    assert publish(other, "--revision", "v2") == 0
    assert publish(run.parent / run.name, "--revision", "v1") == 2, "v1 is not the head's content any more"
    assert hub.repository("models", REPO).tags["v1"] == before


def test_tokens_and_privacy(
    run: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(run) == 2
    assert "no token to publish with; set HF_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert publish(run) == 2
    said = capsys.readouterr()
    assert "refuses this token (401)" in said.err
    assert "hf_wrong" not in said.err + said.out
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert publish(run, "--private") == 0
    assert hub.repository("models", REPO).private
    assert all(TOKEN not in request for request in hub.requests)
    hub.repository("models", REPO).private = False
    assert publish(run, "--private") == 2
    assert "is public; make it private" in capsys.readouterr().err
    leaky = Path(shutil.copytree(run, tmp_path / "leaky"))
    (leaky / "metrics.csv").write_text(f"token\n{TOKEN}\n{TOKEN}\n")
    assert publish(leaky) == 0
    sent = hub.copy_out("models", REPO, tmp_path / "sent") / "training" / "metrics.csv"
    assert TOKEN not in sent.read_text(), "records are redacted before they leave"


def test_dry_run_writes_the_repository_and_sends_nothing(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(run, "--dry-run", "--out", str(tmp_path / "out")) == 0
    assert "add     model.safetensors" in capsys.readouterr().out
    assert hub.repositories == {}
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).num_classes == 80
    assert publish(run) == 0
    capsys.readouterr()
    other = write_checkpoint(tmp_path / "other.safetensors", seed=1)
    assert publish(other, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "change  model.safetensors" in said
    assert "remove  training/metrics.csv" in said
    assert len(hub.repository("models", REPO).commits) == 2


def test_a_bare_checkpoint_with_its_record(hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model.safetensors", seed=3)
    record = evaluate_checkpoint(tmp_path / "results.json", "test_resnet_gam", checkpoint)
    assert publish(checkpoint, "--record", str(record), "--namespace", "me", model="test_resnet_gam.mine") == 0
    assert names(hub, "me/test_resnet_gam.mine") == {
        "README.md", "retrieval.webp", "config.json", "evaluation.json", "model.safetensors"
    }  # fmt: skip


def test_the_tag_follows_from_the_data_or_is_given(
    run: Path, hub: LoopbackHub, token: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that never saw COREL are not called so."""
    checkpoint = write_checkpoint(tmp_path / "model.safetensors")
    assert publish(checkpoint, model="test_resnet_gam") == 2
    assert "name them test_resnet_gam.TAG" in capsys.readouterr().err
    assert hub.requests == []
    birds = Path(shutil.copytree(run, tmp_path / "birds"))
    (birds / "data.json").write_text((run / "data.json").read_text().replace('"corel"', '"me/CUB_Birds@v1"'))
    recipe = (run / "config.yaml").read_text()
    (birds / "config.yaml").write_text(recipe + "dataset: me/CUB_Birds@v1\n")
    assert publish(birds, model="test_resnet_gam") == 0
    [(_, repo)] = hub.repositories
    assert repo == "timm-gam/test_resnet_gam.cub_birds"
    card = ModelCard((hub.copy_out("models", repo, tmp_path / "out") / "README.md").read_text())
    assert card.data.datasets == ["me/CUB_Birds"]
    assert "COREL photographs" not in card.text
