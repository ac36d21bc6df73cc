"""Loader processes that fail, are killed or are blocked: the run ends in one error, or waits and can be interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from eval.retrieval import main
from tests.helpers import write_class_folders
from timm_gam.core import DataError, MachineError
from timm_gam.images import Batch, load_batches


@pytest.fixture(autouse=True)
def _look_for_the_dead_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks every 5 seconds, for as long as nothing comes."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """It raises KeyboardInterrupt; `nohup`ed shells start processes that ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Drawn:
    """Reads images whose only colour is their row, after doing `before(row)` in whatever process reads."""

    before: Callable[[int], object] = lambda row: None
    parallel: bool = True

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        for index in indices:
            self.before(index)
            yield index, Image.new("RGB", (8, 8), (index, 0, 0))


def to_pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def load(reader: Drawn, rows: int = 20, workers: int = 2, **options: object) -> list[Batch]:
    wanted = np.arange(rows)
    with load_batches(reader, wanted, to_pixels, batch_size=3, workers=workers, **options) as batches:
        return list(batches)


def die(row: int) -> None:
    if row == 10:
        os.kill(os.getpid(), signal.SIGKILL)


def leave(row: int) -> None:
    if row == 10:
        os._exit(3)


def fail(row: int) -> None:
    if row == 10:
        raise DataError("row 10 is not for you")


class LocalError(Exception):
    """Pickles, and cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail_strangely(row: int) -> None:
    if row == 10:
        raise LocalError("strange", " one")


def kill_first_child(delay: float = 0) -> threading.Thread:
    """Start a thread that kills the first process which this one starts, `delay` seconds after it is there."""
    ours = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    if not ours.exists():
        pytest.skip("needs Linux's list of children")

    before = ours.read_text().split()  # such as the server that other tests fork processes off

    def kill() -> None:
        while not (children := [child for child in ours.read_text().split() if child not in before]):
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(int(children[0]), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("parallel", [True, False])
def test_batches_come_in_order(workers: int, parallel: bool) -> None:
    batches = load(Drawn(parallel=parallel), workers=workers)
    assert [len(batch.places) for batch in batches] == [3] * 6 + [2]
    assert [place for batch in batches for place in batch.places] == list(range(20))
    for batch in batches:
        assert batch.pixels is not None
        assert batch.pixels[:, 0, 0, 0].tolist() == batch.places
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("before", "error", "message"),
    [
        (die, MachineError, r"a loader process died \(signal 9\).* memory .* fewer --workers"),
        (leave, MachineError, "exit code 3"),
        (fail, DataError, "^row 10 is not for you$"),
        (fail_strangely, RuntimeError, "^LocalError: strange one$"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_befalls_a_loader_process_is_told(before, error: type[Exception], message: str, workers: int) -> None:
    with pytest.raises(error, match=message) as caught:
        load(Drawn(before), workers=workers)
    if error is not MachineError:
        assert "test_loader.py" in str(caught.value.__cause__), "where it was raised"
    assert multiprocessing.active_children() == []


def test_error_without_processes_is_itself() -> None:
    with pytest.raises(LocalError, match="strange one"):
        load(Drawn(fail_strangely), workers=0)


def test_killed_while_the_main_process_computes() -> None:
    seen = 0
    with (
        pytest.raises(MachineError, match="signal 9"),
        load_batches(Drawn(), np.arange(200), to_pixels, batch_size=1, workers=2) as batches,
    ):
        for _ in batches:
            seen += 1
            victim = multiprocessing.active_children()[0]
            victim.kill()
            victim.join()
    assert seen == 1
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_killed_at_any_moment(delay: float) -> None:
    """Also while torch starts the processes and fills their queues."""
    before = signal.getsignal(signal.SIGCHLD)
    killer = kill_first_child(delay)
    with pytest.raises(MachineError, match="a loader process died"):
        load(Drawn(lambda row: time.sleep(0.01)), rows=2000)
    killer.join()
    assert multiprocessing.active_children() == []
    assert callable(before) <= callable(signal.getsignal(signal.SIGCHLD)), "torch's handler is back"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("ctrl_c")
def test_a_blocked_read_can_be_interrupted(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    main_process, waits = os.getpid(), multiprocessing.Event()
    get = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", lambda it: waits.set() or get(it))

    def interrupt() -> None:
        if workers:
            waits.wait()
        os.kill(main_process, signal.SIGINT)

    def block(row: int) -> None:
        if row == 0:
            threading.Thread(target=interrupt).start()
        time.sleep(600)

    with pytest.raises(KeyboardInterrupt):
        load(Drawn(block), workers=workers)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("ctrl_c")
def test_an_interruption_while_processes_start_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ignore Ctrl-C and SIGTERM, so that the end of this process would wait for one for ever."""
    start = BaseProcess.start
    monkeypatch.setattr(BaseProcess, "start", lambda it: start(it) or os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        load(Drawn(), workers=1)
    assert multiprocessing.active_children() == []


def test_a_slow_read_only_delays() -> None:
    assert len(load(Drawn(lambda row: time.sleep(0.05)))) == 7


def test_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: torch.Tensor) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # inherited by the processes
    with pytest.raises(MachineError, match="shared memory .* ran out"):
        load(Drawn())


def test_command_line_survives_a_killed_loader_process(tmp_path: Path, capsys) -> None:
    photos = write_class_folders(tmp_path / "photos", classes=2, images=60, side=300)
    kill_first_child()
    out = tmp_path / "r.json"
    code = main(["--model", "test_resnet", "--no-pretrained", "--data-dir", str(photos), "-j", "2", "-b", "1",
                 "--results-file", str(out)])  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: a loader process died"), said
    assert not out.exists()


def test_out_of_device_memory_is_one_error() -> None:
    """torch's error is a RuntimeError, as a loader process's death is."""
    with (
        pytest.raises(
            MachineError, match=r"out of memory \(CUDA out of memory. Tried .*\); use a smaller --batch-size"
        ),
        load_batches(Drawn(), np.arange(20), to_pixels, batch_size=3, workers=0) as batches,
    ):
        next(batches)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")


def test_a_batch_that_memory_cannot_hold_is_one_error() -> None:
    """torch's error for the processor's own memory is a plain RuntimeError."""
    with (
        pytest.raises(MachineError, match=r"out of memory \(.*DefaultCPUAllocator.*\); use a smaller --batch-size"),
        load_batches(Drawn(), np.arange(20), to_pixels, batch_size=3, workers=0),
    ):
        torch.empty(2**50)
