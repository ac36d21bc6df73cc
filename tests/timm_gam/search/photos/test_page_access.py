"""Who may ask the page, and that nothing but indexed photographs is ever given out."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.processes import start_command, wait_until_said
from tests.timm_gam.search.photos.conftest import served
from timm_gam.search import PhotoIndex
from timm_gam.search.__main__ import main

pytest.importorskip("starlette")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ask(
    address: str, target: str, *, method: str = "GET", body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request whose target is sent as it is."""
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.putrequest(method, target, skip_host=True)
    for name, value in {"Host": host, "Content-Length": str(len(body)), **(headers or {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def found(address: str, target: str) -> dict[str, Any]:
    status, _, body = ask(address, target)
    assert status == 200, body
    content: dict[str, Any] = json.loads(body)
    return content


def test_answers_are_those_of_the_index(indexed: Path) -> None:
    photo = indexed / "class1" / "2.jpg"
    index = PhotoIndex.open(indexed)
    collection = index.collection()
    vector = index.vector(collection, bytes.fromhex(digest(photo)))
    assert vector is not None
    expected = [m for m in index.search(collection, vector, 6) if m.photo.path != "class1/2.jpg"][:5]
    with served(indexed) as address:
        matches = found(address, f"/search?like={digest(photo)}&count=5")["photos"]
        assert [m["path"] for m in matches] == [m.photo.path for m in expected]
        assert [m["score"] for m in matches] == [round(m.score, 6) for m in expected]
        in_folder = found(address, f"/search?like={digest(photo)}&folder=class2&count=50")
        assert {m["path"].split("/")[0] for m in in_folder["photos"]} == {"class2"} and in_folder["total"] == 4
        assert found(address, "/photos?since=2019")["photos"][0]["path"] == "class0/dated.jpg"
        status, headers, body = ask(address, f"/originals/{digest(photo)}")
        assert (status, headers["content-type"], body) == (200, "image/jpeg", photo.read_bytes())
        why = found(address, f"/why?query={digest(photo)}&match={matches[0]['id']}")
        for side in why["sides"]:
            assert sum(map(sum, side["parts"])) == pytest.approx(matches[0]["score"], abs=1e-3)


def test_a_dropped_photograph_is_searched_with_and_kept_in_memory_alone(indexed: Path, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "new.png")
    data = (tmp_path / "new.png").read_bytes()
    before = sorted(indexed.rglob("*"))
    with served(indexed) as address:
        status, _, body = ask(address, "/photos", method="POST", body=data)
        assert (status, json.loads(body)) == (200, {"id": hashlib.sha256(data).hexdigest()})
        name = json.loads(body)["id"]
        assert len(found(address, f"/search?like={name}&like={digest(indexed / 'class0' / '0.jpg')}")["photos"]) == 12
        assert ask(address, f"/thumbnails/{name}")[0] == 200
        assert ask(address, f"/originals/{name}")[0] == 404, "only what is indexed is given out"
        status, _, body = ask(address, "/photos", method="POST", body=b"no image")
        assert status == 400 and "cannot read" in json.loads(body)["error"]
    assert sorted(indexed.rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "..%2fsecret.jpg",
        "..%2Fsecret.jpg",
        "%2e%2e/secret.jpg",
        "%2e%2e%2fsecret.jpg",
        "..%252fsecret.jpg",
        "..%5csecret.jpg",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "class0/0.jpg",
        "class0%2f0.jpg",
        "link.jpg",
        ".timm-gam-index/index.json",
        "..%c0%afsecret.jpg",
        "%00",
        "0" * 64,
        "{secret}",
    ],
)
@pytest.mark.parametrize("question", ["/originals/", "/thumbnails/", "/", "/why?match=0&query=", "/search?like="])
def test_no_path_leads_out_of_the_folder(question: str, name: str, hostile: tuple[str, Path]) -> None:
    address, secret = hostile
    status, _, body = ask(address, question + name.format(secret=digest(secret)))
    assert status in (400, 404)
    assert secret.read_bytes() not in body and b"root:" not in body and b"collections" not in body


@pytest.fixture(scope="module")
def hostile(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A served page, and a photograph beside the folder that a link in it leads to."""
    secret = _indexed.parent / "secret.jpg"
    Image.new("RGB", (40, 40), "white").save(secret)
    (_indexed / "link.jpg").symlink_to(secret)
    try:
        with served(_indexed) as address:
            yield address, secret
    finally:
        (_indexed / "link.jpg").unlink()


def test_what_took_a_photographs_place_is_not_given_out(indexed: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (40, 40), "white").save(secret)
    other, linked = indexed / "class0" / "0.jpg", indexed / "class1" / "0.jpg"
    names = [digest(other), digest(linked), digest(indexed / "class2" / "0.jpg")]
    other.write_bytes(secret.read_bytes())
    linked.unlink()
    linked.symlink_to(secret)
    (indexed / "class2").rename(tmp_path / "elsewhere")
    (indexed / "class2").symlink_to(tmp_path / "elsewhere")  # the same bytes, but outside
    with served(indexed) as address:
        for name in names:
            for question in ("originals", "thumbnails"):
                assert ask(address, f"/{question}/{name}")[0] == 404


def test_another_host_name_or_page_is_refused(indexed: Path) -> None:
    with served(indexed) as address:
        assert ask(address, "/photos", headers={"Host": "evil.example"})[0] == 403
        assert ask(address, "/", headers={"Host": "localhost"})[0] == 200
        assert ask(address, "/photos", method="POST", body=b"x", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
        _, headers, _ = ask(address, "/")
        assert headers["x-frame-options"] == "DENY" and headers["cross-origin-resource-policy"] == "same-origin"
    with served(indexed, public=True) as address:
        assert ask(address, "/photos", headers={"Host": "any.example"})[0] == 200


def test_a_token_is_asked_for_once(indexed: Path) -> None:
    with served(indexed, token="right") as address:
        for target in ("/", "/photos", "/?token=wrong", "/?token=", "/?token=%ff"):
            assert ask(address, target)[0] == 403
        assert ask(address, "/", headers={"Cookie": "timm-gam-search=wrong"})[0] == 403
        status, headers, _ = ask(address, "/photos?token=right&folder=class0")
        assert (status, headers["location"]) == (303, "/photos?folder=class0")
        cookie = headers["set-cookie"]
        assert "httponly" in cookie.lower() and "samesite=strict" in cookie.lower()
        assert ask(address, "/photos", headers={"Cookie": cookie.split(";")[0]})[0] == 200


def test_too_large_a_photograph_is_refused(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_gam.search.page.app.MOST_BYTES", 1000)
    with served(indexed) as address:
        assert ask(address, "/photos", method="POST", body=bytes(2000))[0] == 413


def test_the_command_prints_the_address_and_ends_with_ctrl_c(
    indexed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(indexed), "--port", str(taken.getsockname()[1])]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: cannot listen") and "--port" in refused
    options, said = ["serve", str(indexed), "--host", "0.0.0.0", "--port", "0"], tmp_path / "said"
    with start_command("timm_gam.search.__main__", options, said) as process:
        served_at = r"13 photographs of '.*' at http://0.0.0.0:(\d+)/\?token=(\S+)"
        match = wait_until_said(served_at, process, said)
        assert ask(f"http://127.0.0.1:{match[1]}", "/")[0] == 403
        assert ask(f"http://127.0.0.1:{match[1]}", f"/?token={match[2]}")[0] == 303
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
    assert process.exitcode == 0, said.read_text()
