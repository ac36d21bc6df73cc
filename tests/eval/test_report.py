"""The page: opened in a browser, held against the scores, fed hostile names; and the split of a score over places."""

from __future__ import annotations

import doctest
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import eval as evaluation
import timm_gam.embed.network.locations
from eval.report.__main__ import main as command
from eval.results.document import Document
from tests.helpers import write_class_folders
from timm_gam.core import DataError, ModelError, OutputError
from timm_gam.embed import attention_maps, location_split
from timm_gam.images import resolve_preprocessing

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HOSTILE = """<img src=x onerror="document.title='owned'"></script><script>document.title='owned'</script>'&"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list]:
    """Two networks on drawn images in class folders, one of them with a name made to break pages."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("<img src=x>sea & sky", "forest", 'it\'s "night"'):
        (root / name).mkdir()
        colour = rng.integers(0, 200, 3)
        for number in range(6):
            pixels = (colour + rng.integers(0, 55, (48, 72, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg")
    twin = root / "<img src=x>sea & sky"  # the same photo, saved again
    with Image.open(twin / "0.jpg") as image:
        image.save(twin / "again.jpg", quality=90)
    images = evaluation.read_folder(root)
    results, explanations = [], []
    for name in ("test_resnet_gam.corel", "test_resnet.corel"):
        loaded = evaluation.load_model(name)
        result = evaluation.evaluate(loaded, images, settings=evaluation.Settings(intervals="none"))
        results.append(result)
        explanations.append(evaluation.explain(result, loaded, resolve_preprocessing(loaded.model)))
    return results, explanations


@pytest.fixture(scope="module")
def page(scored, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    evaluation.write_report(scored[0], path, explanations=scored[1], notes=[HOSTILE])
    return path


class Scripts(HTMLParser):
    """Text of the script element with an id, and every address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.content, self.inside, self.tags, self.addresses = "", False, set(), []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.inside = dict(attrs).get("id") == "content"
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag) -> None:
        self.inside = False

    def handle_data(self, data) -> None:
        self.content += data if self.inside else ""


def parse(page: Path) -> tuple[dict, Scripts]:
    parser = Scripts()
    parser.feed(page.read_text(encoding="utf-8"))
    return json.loads(parser.content), parser


def test_the_metrics_come_back_from_the_file(page: Path, scored) -> None:
    content, _ = parse(page)
    document = Document.model_validate(content["document"])
    by_name = {result.name: result for result in scored[0]}
    for entry in document.results:
        for name, average in entry.metrics.items():
            assert average.micro == by_name[entry.name].averages[name].micro
    for model in content["models"]:
        result = by_name[model["name"]]
        for query in model["queries"]:
            shown = content["images"][query["image"]]
            ranking = result.ranking(shown["id"])
            assert [content["images"][image]["id"] for image, _, _ in query["ranked"]] == [r.id for r in ranking.ranked]
            assert [bool(right) for _, _, right in query["ranked"]] == [r.relevant for r in ranking.ranked]
            assert query["metrics"]["map"] == pytest.approx(ranking.value, abs=1e-6)
    worst = content["models"][0]["queries"][content["models"][0]["worst"]["map"][0]]
    assert worst["metrics"]["map"] == pytest.approx(
        np.nanmin(by_name[content["models"][0]["name"]].metric("map")), abs=1e-6
    )


def test_nothing_is_fetched_and_names_are_text(page: Path) -> None:
    content, parser = parse(page)
    assert parser.addresses == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page.read_text(encoding="utf-8"))
    assert "img" not in parser.tags, "a name was taken as HTML"
    assert {image["class"] for image in content["images"]} >= {"<img src=x>sea & sky"}
    assert all(image["uri"].startswith("data:image/webp;base64,") for image in content["images"])


def browse(page: Path, *options: str) -> str:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_a_browser_shows_rankings_matches_and_gates(page: Path) -> None:
    dom = browse(page, "--dump-dom", "--enable-logging=stderr")
    assert "<title>owned" not in dom
    assert "CONSOLE" not in dom, "an error, or something the policy of the page refused"
    assert dom.count('class="ranking"') >= 4
    assert dom.count("tile wrong") >= 1
    assert dom.count('class="gate"') == 4
    assert len(re.findall(r'class="match( wrong)?"', dom)) >= 2


def test_near_duplicates_are_shown_with_what_they_do_to_the_metrics(page: Path, scored) -> None:
    content, _ = parse(page)
    near = scored[0][0].facts.near_duplicates
    assert near.queries == 2
    (pair,) = content["near_duplicates"]
    names = {content["images"][pair[side]]["id"].rpartition("/")[2] for side in ("query", "match")}
    assert names == {"0.jpg", "again.jpg"}
    assert pair["likeness"] == near.examples[0].likeness >= 0.85
    dom = browse(page, "--dump-dom")
    shown = re.search(r'<section aria-label="Near-duplicates">(.*?)</section>', dom, re.S)[1]
    assert "2 of 19 queries (10.5 %)" in shown
    assert shown.count("<figure") == 2
    assert shown.count("&lt;img src=x&gt;sea &amp; sky") >= 2
    assert f"<td>{100 * near.metrics['map'].micro:.1f}</td>" in shown


def test_the_share_of_near_duplicates_is_a_plain_number_up_to_all(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=2, images=3)
    shutil.copytree(photos / "class0", photos / "class0 again")
    shutil.rmtree(photos / "class1")
    result = evaluation.evaluate("test_resnet.corel", photos)
    evaluation.write_report(result, tmp_path / "report.html")
    assert "6 of 6 queries (100.0 %) have an image" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results came"):
        evaluation.write_report([], tmp_path / "report.html")


def test_nothing_is_wider_than_a_phone(page: Path, tmp_path: Path) -> None:
    """At 390 pixels, where tables scroll within their own box."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    probe = """<script>setTimeout(() => {
      const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg")
        && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
      parent.postMessage(wide.map(e => e.tagName + "." + e.className).join(" ") || "all within", "*");
    }, 500)</script></body>"""
    (tmp_path / "phone.html").write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<p id="found"></p><iframe src="phone.html" style="width: 390px; height: 844px; border: 0"></iframe>'
        "<script>onmessage = e => document.getElementById('found').textContent = e.data</script>"
    )
    assert '<p id="found">all within</p>' in browse(frame, "--dump-dom")


def test_a_page_without_pictures_and_of_a_saved_result(scored, tmp_path: Path) -> None:
    scored[0][0].save(tmp_path / "result.safetensors")
    bare = evaluation.RetrievalResult.load(tmp_path / "result.safetensors")
    evaluation.write_report(bare, tmp_path / "report.html")
    content, _ = parse(tmp_path / "report.html")
    assert all(image["uri"] is None for image in content["images"])
    with pytest.raises(OutputError):
        evaluation.write_report(bare, tmp_path / "no" / "report.html")
    with pytest.raises(DataError, match="compare results of the same images"):
        evaluation.write_report([bare, evaluation.score(np.eye(4), [0, 0, 1, 1])], tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_the_command_writes_a_page_of_saved_results(scored, tmp_path: Path, capsys) -> None:
    files = []
    for result in scored[0]:
        result.save(tmp_path / f"{result.name}.safetensors")
        files.append(str(tmp_path / f"{result.name}.safetensors"))
    page = tmp_path / "page.html"
    assert command([*files, "--rank-by", "hit@1", "--output", str(page)]) == 0
    assert len(parse(page)[0]["models"]) == 2
    for arguments in (
        [str(tmp_path / "nothing")],
        [str(page)],
        [*files, "--rank-by", "hit@7"],
        [files[0], "--dataset", "synthetic"],
    ):
        assert command([*arguments, "--output", str(tmp_path / "bad.html")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "bad.html").exists()


def test_many_images_make_no_large_page(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(80), 135)
    vectors = np.random.default_rng(0).normal(size=(80, 16))[labels] + np.random.default_rng(1).normal(size=(10800, 16))
    result = evaluation.score(vectors.astype(np.float32), labels, settings=evaluation.Settings(intervals="none"))
    evaluation.write_report(result, tmp_path / "report.html")
    content, _ = parse(tmp_path / "report.html")
    assert len(content["images"]) < 2000, "of at most 4 KB each"
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_parts_add_up_to_the_score(scored) -> None:
    for result, explanation in zip(*scored, strict=True):
        assert explanation.matches
        for match in explanation.matches:
            assert match.query.parts.sum() == pytest.approx(match.score, abs=1e-6)
            assert match.match.parts.sum() == pytest.approx(match.score, abs=1e-6)
            assert match.score == pytest.approx(result.ranking(match.query.id, 1).ranked[0].score)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050", "test_vit2"]
)
def test_the_split_is_exact_or_refused(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    size = timm.data.resolve_data_config({}, model=model)["input_size"]
    pair = torch.rand(2, *size)
    try:
        split = location_split(model, pair[0], pair[1])
    except ModelError as error:
        assert "mean over places" in str(error)
        assert name in ("test_convnext", "test_vit2"), "average pooling is its last step"
        return
    network = evaluation.embedding_network(model)
    with torch.inference_mode():
        a, b = network(pair).double()
    assert split.query.sum() == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-6)
    assert split.match.sum() == pytest.approx(split.score, abs=1e-6)


def test_gates_are_what_the_layer_multiplies_by() -> None:
    model = timm.create_model("test_resnet_se.corel", pretrained=True).eval()
    maps = attention_maps(model, torch.rand(2, 3, 64, 64))
    assert len(maps) == 4
    for gates in maps.values():
        assert (gates > 0).all() and (gates < 1).all()
        np.testing.assert_allclose(
            gates, gates[:, :1, :1].repeat(gates.shape[1], 1).repeat(gates.shape[2], 2), atol=1e-4
        )
    assert attention_maps(timm.create_model("test_resnet").eval(), torch.rand(1, 3, 64, 64)) == {}


def test_deleting_the_strongest_places_lowers_a_score_more_than_random_ones(
    coreldb: Path, mobilenetv2_weights: Path
) -> None:
    loaded = evaluation.load_model("mobilenetv2_100", checkpoint=mobilenetv2_weights)
    transform = resolve_preprocessing(loaded.model).transform()
    folders = sorted(path for path in coreldb.iterdir() if path.is_dir())[:6]
    rng = np.random.default_rng(0)
    strongest, random = [], []
    for folder in folders:
        query, match = (transform(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())[:2])
        split = location_split(loaded.model, query, match)
        places = split.match.size // 5
        for drops, order in (
            (strongest, np.argsort(-split.match, axis=None)),
            (random, rng.permutation(split.match.size)),
        ):
            gone = match.clone()
            for flat in order[:places]:
                y, x = divmod(int(flat), split.match.shape[1])
                step = gone.shape[1] // split.match.shape[0]
                gone[:, y * step : (y + 1) * step, x * step : (x + 1) * step] = 0  # the mean colour
            drops.append(split.score - location_split(loaded.model, query, gone).score)
    assert np.mean(strongest) > np.mean(random)


def test_examples() -> None:
    assert doctest.testmod(timm_gam.embed.network.locations).failed == 0
