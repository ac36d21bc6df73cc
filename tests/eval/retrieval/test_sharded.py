"""`torchrun -m eval.retrieval`: several gloo processes give what one gives, to the last digit, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eval.retrieval import main
from tests.helpers import free_port, write_class_folders
from tests.processes import start_command

MODEL = ["--model", "test_resnet", "--no-pretrained", "--img-size", "32", "--interval", "none"]


def two_processes(folder: Path, *arguments: object) -> list[str]:
    """What each of two says on both streams; torchrun sets the same variables."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    said = [folder / "said0", folder / "said1"]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                start_command("eval.retrieval", [*MODEL, *map(str, arguments)], path, RANK=str(rank), **common)
            )
            for rank, path in enumerate(said)
        ]
        for process in processes:
            process.join(300)
    assert [process.exitcode for process in processes] == [0, 0], said[0].read_text() + said[1].read_text()
    return [path.read_text() for path in said]


def alone(*arguments: object) -> None:
    assert main([*MODEL, *map(str, arguments)]) == 0


def result(path: Path, place: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(path.read_text())["results"][place]
    return entry


def assert_same_but_for_timings(several: dict[str, Any], one: dict[str, Any]) -> None:
    assert {**several, "timings": None} == {**one, "timings": None}


def test_two_processes_of_which_one_has_no_batch_of_queries(tmp_path: Path) -> None:
    queries = write_class_folders(tmp_path / "queries", classes=2, images=2)
    gallery = write_class_folders(tmp_path / "gallery", classes=2, images=6, suffix=".png")
    (gallery / "class1" / "3.png").write_bytes(b"no image")
    options = ["--data-dir", queries, "--gallery-dir", gallery, "--skip-unreadable", "-b", "8", "-j", "0"]
    options += ["--rerank", "dba:neighbours=3", "--cache-dir", tmp_path / "cache", "--results-file"]
    first, second = two_processes(tmp_path, *options, tmp_path / "two.json")
    assert first.count("wrote") == 1 and second == "", "only the first process prints"
    alone(*options[:-3], options[-1], tmp_path / "one.json")
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1, "the parts of all are one file now"
    alone(*options, tmp_path / "cached.json")
    for place in (1, 0):  # re-ranked, and plain
        one, two, cached = (result(tmp_path / f"{name}.json", place) for name in ("one", "two", "cached"))
        assert_same_but_for_timings(two, one)
        assert_same_but_for_timings(cached, one)
    assert [entry["id"] for entry in two["data"]["unreadable"]] == ["gallery/class1/3.png"]
    assert (two["timings"]["processes"], two["timings"]["images_embedded"]) == (2, 15)
    assert cached["timings"]["images_embedded"] == 0, "kept by the two"


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
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "SIGKILL" in said, "torchrun says which process ended, and how"
    kept = len(list(tmp_path.glob("cache/*.safetensors")))
    alone(*options[len(MODEL) :], "--results-file", tmp_path / "resumed.json")
    resumed = result(tmp_path / "resumed.json")
    assert resumed["timings"]["images_embedded"] <= 180 - 4 * (kept - 1)
    alone(*options[len(MODEL) : -2], "--results-file", tmp_path / "one.json")
    assert_same_but_for_timings(resumed, result(tmp_path / "one.json"))
