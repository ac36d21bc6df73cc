"""`torchrun -m eval.retrieval`: several gloo processes give what one gives, to the last digit, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eval.retrieval import main
from tests.helpers import write_class_folders

MODEL = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "--interval", "none"]


def torchrun(processes: int, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    return subprocess.Popen(
        [*command, "-m", "eval.retrieval", *MODEL, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return out


def alone(*arguments: object) -> None:
    assert main([*MODEL, *map(str, arguments)]) == 0


def result(path: Path, place: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(path.read_text())["results"][place]
    return entry


def assert_same_but_for_timings(several: dict[str, Any], one: dict[str, Any]) -> None:
    assert {**several, "timings": None} == {**one, "timings": None}


def test_two_processes_with_uneven_shares_and_an_unreadable_image(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=7)
    (photos / "class1" / "3.jpg").write_bytes(b"no image")
    options = ["--data-dir", photos, "--skip-unreadable", "-b", "4", "-j", "1", "--rerank", "dba:neighbours=3"]
    options.append("--results-file")
    process = torchrun(2, *options, tmp_path / "two.json")
    alone(*options, tmp_path / "one.json")
    out = finish(process)
    assert out.count("wrote") == 1, "only the first process prints"
    for place in (1, 0):  # re-ranked, and plain
        two, one = result(tmp_path / "two.json", place), result(tmp_path / "one.json", place)
        assert_same_but_for_timings(two, one)
    assert [entry["id"] for entry in two["data"]["unreadable"]] == ["class1/3.jpg"]
    assert (two["timings"]["processes"], two["timings"]["images_embedded"]) == (2, 20)


def test_three_processes_for_two_batches_with_a_gallery_and_a_cache(tmp_path: Path) -> None:
    queries = write_class_folders(tmp_path / "queries", classes=2, images=2)
    gallery = write_class_folders(tmp_path / "gallery", classes=2, images=5, suffix=".png")
    options = ["--data-dir", queries, "--gallery-dir", gallery, "-b", "8", "-j", "0", "--cache-dir", tmp_path / "cache"]
    finish(torchrun(3, *options, "--results-file", tmp_path / "three.json"))
    three = result(tmp_path / "three.json")
    assert three["timings"]["images_embedded"] == 14
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1, "the parts of all are one file now"
    alone(*options, "--results-file", tmp_path / "cached.json")
    assert result(tmp_path / "cached.json")["timings"]["images_embedded"] == 0, "kept by the three"
    alone(*options[:-2], "--results-file", tmp_path / "one.json")
    for name in ("three.json", "cached.json"):
        assert_same_but_for_timings(result(tmp_path / name), result(tmp_path / "one.json"))


SLOW_READS = """
import sys, time
import timm_gam.embed.embedding_cache, timm_gam.images.decoding, timm_gam.images.loader
timm_gam.embed.embedding_cache.PART_IMAGES = 4
load = timm_gam.images.decoding.load_image
def load_slowly(*args, **kwargs):
    time.sleep(0.05)
    return load(*args, **kwargs)
timm_gam.images.loader.load_image = load_slowly
from eval.retrieval import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_process_ends_the_run_and_what_was_embedded_is_kept(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=3, images=60)
    options = [*MODEL, "--data-dir", str(photos), "-b", "4", "-j", "0", "--cache-dir", str(tmp_path / "cache")]
    script = tmp_path / "slow.py"
    script.write_text(SLOW_READS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment)
    while len(list(tmp_path.glob("cache/*.safetensors"))) < 4:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs /proc to find the processes of torchrun")
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "SIGKILL" in said, "torchrun says which process ended, and how"
    kept = len(list(tmp_path.glob("cache/*.safetensors")))
    alone(*options[len(MODEL) :], "--results-file", tmp_path / "resumed.json")
    resumed = result(tmp_path / "resumed.json")
    assert resumed["timings"]["images_embedded"] <= 180 - 4 * (kept - 1)
    alone(*options[len(MODEL) : -2], "--results-file", tmp_path / "one.json")
    assert_same_but_for_timings(resumed, result(tmp_path / "one.json"))
