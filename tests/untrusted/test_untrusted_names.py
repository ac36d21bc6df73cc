"""Names that somebody chose to break terminals, cards, YAML and pages, and secrets, through whole commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import eval as evaluation
from eval.retrieval import main as score
from hub.dataset import main as publish
from tests.helpers import score_command, write_class_folders
from tests.timm_gam.core.test_text import NAMES, TOKEN, unseen
from timm_gam.search.__main__ import main as search

PAGE_NAMES = [
    "<img src=x onerror=a()>",
    '"><script>a()</script>',
    "' onclick='a()",
    "</title><b>",
    "{{ 7*7 }}",
    "&amp;",
]
CARD_NAMES = [
    "a: [b",
    "- x",
    "'\"",
    "---",
    "# no",
    "!!python/object:os.system x",
    "a | b",
    "`a`",
    "[x](http:y)",
    "true",
]


def photos_named(root: Path, names: list[str]) -> Path:
    """A class folder of each name, as far as a file system takes it."""
    write_class_folders(root, classes=len(names), images=3)
    for number, name in enumerate(names):
        (root / f"class{number}").rename(root / name.replace("\ud800", "?").replace("/", "\u2215"))
    return root


def test_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos = photos_named(tmp_path / "bad\x1b[2J\nerror: root", NAMES)
    command = [*score_command(photos), "-j", "0"]
    assert score([*command, "--per-class", "--paper-table", "--results-file", str(tmp_path / "r.json")]) == 0
    out, err = capfd.readouterr()
    assert unseen(out + err) == []
    assert not any(line.startswith("error:") for line in (out + err).splitlines())
    assert "cat\\nerror: disk full" in out
    (photos / NAMES[0] / "x\nerror: y.jpg").write_bytes(b"no image")
    assert score(command) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n"), unseen(err)) == ("", 1, [])
    assert err.startswith("error: cannot read image 'cat\\nerror: disk full/x\\nerror: y.jpg': not an image")
    assert search(["index", str(photos), "--model", "test_resnet.corel", "-j", "0"]) == 0
    query = str(photos / NAMES[2] / "0.jpg")
    assert search(["query", query, "--in", str(photos), "-k", "30", "--html", str(tmp_path / "s.html")]) == 0
    out, err = capfd.readouterr()
    assert unseen(out + err) == []
    assert not any(line.startswith("error:") for line in (out + err).splitlines())


class Elements(HTMLParser):
    """Counts (element, names of its attributes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag, tuple(name for name, _ in attrs)] += 1


def pages(root: Path, names: list[str]) -> list[Path]:
    """A report and a contact sheet of photographs in classes of these names."""
    photos = photos_named(root / "photos", names)
    loaded = evaluation.load_model("test_resnet.corel")
    result = evaluation.evaluate(loaded, evaluation.read_folder(photos), settings=evaluation.Settings(intervals="none"))
    evaluation.write_report(result, root / "report.html", notes=names[1:2])
    assert search(["index", str(photos), "--model", "test_resnet.corel", "-j", "0"]) == 0
    query = str(next(photos.iterdir()) / "0.jpg")
    assert search(["query", query, "--in", str(photos), "-k", "9", "--html", str(root / "sheet.html")]) == 0
    return [root / "report.html", root / "sheet.html"]


def test_no_element_and_no_attribute_of_a_page_comes_from_data(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good = pages(tmp_path / "good", [f"name{number}" for number in range(len(PAGE_NAMES))])
    for plain, hostile in zip(good, pages(tmp_path / "bad", PAGE_NAMES), strict=True):
        assert Elements(hostile).found == Elements(plain).found


def test_what_reads_from_right_to_left_moves_nothing_else_on_a_page(tmp_path: Path) -> None:
    names = ["gnp.\u202ecat", "\u2066dog", "zero\u200bwidth", "\u05db\u05dc\u05d1", "plain"]
    for page in pages(tmp_path, names):
        text = page.read_text(encoding="utf-8")
        for data in re.findall(r'(?<=id="content">).*(?=</script>)', text):
            text = text.replace(data, json.dumps(json.loads(data), ensure_ascii=False))
        isolated = re.findall("\u2068[^\u2068\u2069]*\u2069", text)
        assert set("".join(isolated)) >= set(names[3])
        rest = "".join(re.split("\u2068[^\u2068\u2069]*\u2069", text))
        assert unseen(rest) == []
        assert names[3][0] not in rest


def test_cards(tmp_path: Path, cache: Path) -> None:
    names = [*CARD_NAMES, *NAMES[:7], *PAGE_NAMES]
    photos = photos_named(tmp_path / "photos", names)
    copy = next(path for path in photos.iterdir() if "`" in path.name) / "copy`<b>.jpg"
    copy.write_bytes((copy.parent / "0.jpg").read_bytes())
    assert publish([str(photos), "--repo", "me/photos", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    _, front, body = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    features = {feature["name"]: feature for feature in yaml.safe_load(front)["dataset_info"]["features"]}
    published = features["label"]["dtype"]["class_label"]["names"]
    assert list(published.values()) == sorted(path.name for path in photos.iterdir())
    assert unseen(body) == []
    assert "``" in body, "a backtick in a name does not end the span of code"


EVERY_WAY = f"""
import sys
from pathlib import Path
from eval.arguments.retrieval import parse_arguments
from eval.arguments.inputs import choose_inputs
from eval.retrieval import main
from timm_gam.core import write_json
for named in (["--model", "hf-hub:me/x"], ["--model", {TOKEN!r}],
              ["--model", "test_resnet.corel", "--dataset", "me/{TOKEN}"]):
    assert main(named) == 2
note = choose_inputs(parse_arguments([])).note
print(note)
write_json(Path(sys.argv[1]), {{"notes": [note]}})
"""


def test_secrets(tmp_path: Path) -> None:
    """An endpoint with a password, a token as a model or a data set; then the fallback, which a record speaks of."""
    environment = {
        **os.environ, "HF_ENDPOINT": "http://me:s3cret-pass@127.0.0.1:9", "HF_TOKEN": "t0ken-of-the-environment",
        "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    command = [sys.executable, "-c", EVERY_WAY, str(tmp_path / "r.json")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [line.startswith("error: ") for line in ran.stderr.splitlines()] == 3 * [True]
    assert "127.0.0.1:9" in ran.stdout
    for secret in ("s3cret-pass", TOKEN, "t0ken-of-the-environment"):
        assert secret not in ran.stdout + ran.stderr + (tmp_path / "r.json").read_text(encoding="utf-8")
