"""The page in a real browser: drop, click, keys, a phone's width."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.timm_gam.search.photos.conftest import served

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
pytest.importorskip("starlette")
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(_indexed: Path) -> Iterator[str]:
    with served(_indexed) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; it may say nothing on the console and ask nobody else."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    yield from opened(page, address)


def opened(page: Any, address: str) -> Iterator[Any]:
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else wrong.append(request.url)
    )
    page.goto(address)
    page.wait_for_selector(".photo")
    yield page
    page.close()
    assert [line for line in wrong if "400 (Bad Request)" not in line] == []  # the browser's own note of a refusal


def paths(page: Any) -> list[str]:
    return [title.split("\n")[0] for title in page.locator(".find").evaluate_all("all => all.map(one => one.title)")]


def expect(page: Any, selector: str, count: int) -> None:
    """Wait until so many are shown, and nothing is waited for."""
    for _ in range(3000):
        if page.locator(selector).count() == count and not page.locator(".waiting").count():
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"{page.locator(selector).count()} of {selector}; {page.inner_text('#status')}")


def expect_chips(page: Any, count: int) -> None:
    expect(page, ".chip", count)


def test_a_photograph_is_dragged_in(page: Any, tmp_path: Path, _indexed: Path) -> None:
    photo = tmp_path / "a photo.png"
    Image.linear_gradient("L").convert("RGB").save(photo)
    chromium = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(photo)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        chromium.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 500, "data": data})
    page.wait_for_selector("#veil:visible")
    chromium.send("Input.dispatchDragEvent", {"type": "drop", "x": 300, "y": 500, "data": data})
    expect_chips(page, 1)
    assert page.locator("#veil").is_hidden()
    scores = [float(text) for text in page.locator(".about b").all_inner_texts()]
    assert len(scores) == 13 and scores == sorted(scores, reverse=True)
    assert page.locator(".chip img").evaluate("image => image.naturalWidth") > 0
    page.reload()
    expect_chips(page, 1)


def test_one_that_is_no_photograph_is_told(page: Any) -> None:
    page.set_input_files("#file", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no image"})
    page.wait_for_selector("#status.problem")
    assert "cannot read" in page.inner_text("#status")


def test_a_result_is_clicked_added_explained_and_opened(page: Any, _indexed: Path) -> None:
    page.locator(".find[title^='class1/2.jpg']").click()
    expect_chips(page, 1)
    first = paths(page)
    assert len(first) == 12 and "class1/2.jpg" not in first
    page.locator(".photo").first.hover()
    page.locator(".photo").first.get_by_text("why").click()
    page.wait_for_selector(".seen canvas >> nth=1")
    assert "add up to" in page.inner_text("#why-text")
    page.keyboard.press("Escape")
    with page.expect_popup() as popup:
        page.locator(".photo").first.get_by_text("open").click()
    assert popup.value.evaluate("document.images[0].naturalWidth") > 0
    page.locator(".photo").first.get_by_text("+").click()
    expect_chips(page, 2)
    assert first[0] not in paths(page) and "average of 2" in page.inner_text("#status")
    page.get_by_label("Look without this one").first.click()
    expect_chips(page, 1)
    page.go_back()
    expect_chips(page, 2)
    page.get_by_text("Show all photographs").click()
    expect_chips(page, 0)
    assert len(paths(page)) == 13


def test_filters(page: Any) -> None:
    page.select_option("[name=folder]", "class2")
    expect(page, ".photo", 4)
    page.locator(".find").first.click()
    expect_chips(page, 1)
    assert {path.split("/")[0] for path in paths(page)} == {"class2"}
    page.get_by_text("Clear").click()
    expect(page, ".photo", 12)
    page.fill("[name=since]", "2019-06-01")
    expect(page, ".photo", 1)


def test_by_keyboard_alone(page: Any) -> None:
    for _ in range(40):  # a date has several stops
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "find":
            break
    start = page.evaluate("document.activeElement.title")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.title") != start
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.title") == start
    top = page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY") > top
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY") == top
    page.keyboard.press("Enter")
    expect_chips(page, 1)
    page.keyboard.press("ArrowDown")  # from nowhere to the first
    page.keyboard.press("w")
    page.wait_for_selector(".seen canvas >> nth=1")
    page.keyboard.press("Escape")
    page.wait_for_selector("#why", state="hidden")
    page.keyboard.press("a")
    expect_chips(page, 2)
    page.keyboard.press("Escape")
    expect_chips(page, 1)
    page.keyboard.press("Escape")
    expect_chips(page, 0)


def test_a_phones_width(browser: Any, address: str) -> None:
    for page in opened(
        browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True), address
    ):
        page.locator(".find").first.tap()
        expect_chips(page, 1)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator(".acts").first.evaluate("acts => getComputedStyle(acts).opacity") == "1"
        page.locator(".photo").nth(1).get_by_text("why").tap()
        page.wait_for_selector(".seen canvas >> nth=1")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
