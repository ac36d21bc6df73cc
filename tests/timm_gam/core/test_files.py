"""A result is whole or not there, and nothing but a regular file is ever replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from timm_gam.core import OutputError, atomic_path, check_outputs, leftovers, sweep


def test_success_replaces_and_failure_leaves_what_was(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    for text in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.write_text(text)
        assert target.read_text() == text
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error
    assert target.read_text() == "two"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "latest.json"
    link.symlink_to(Path("elsewhere") / "r.json")
    check_outputs(link)
    with atomic_path(link) as temporary:
        temporary.write_text("x")
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "r.json").read_text() == "x"


def test_what_cannot_be_written_is_refused_and_kept(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in (
        (pipe, "is no regular file"),
        (Path(os.devnull), "is no regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "r.json", "No such file"),
    ):
        with pytest.raises(OutputError, match=message):
            check_outputs(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "no" / "r.json"):
        pass


def test_no_output_is_another_or_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_text("kept")
    check_outputs(Path("a.json"), None, Path("b.json"), inputs=["weights.safetensors", None, "resnet50"])
    with pytest.raises(OutputError, match=r"a.json' twice; name a file for each"):
        check_outputs(Path("a.json"), tmp_path / "a.json")
    with pytest.raises(OutputError, match="weights.safetensors': it is what is read"):
        check_outputs(tmp_path / "weights.safetensors", inputs=["weights.safetensors"])


PROGRAM = """
import os, sys, time
from pathlib import Path
from timm_gam.core import atomic_path
with atomic_path(Path(sys.argv[1]), folder={folder}) as temporary:
    if temporary.is_dir():
        (temporary / "half").write_text("half")
    else:
        temporary.write_text("half")
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_is_removed_and_what_is_written_stays(folder: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM.format(folder=folder)]
    with (
        subprocess.Popen([*command, tmp_path / "a"], stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen([*command, tmp_path / "b"], stdout=subprocess.PIPE, text=True) as writing,
    ):
        for process in (killed, writing):
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
        killed.kill()
        killed.wait()
        (tmp_path / ".somebody.elses.tmp").touch()
        assert len(list(tmp_path.glob(".*.tmp"))) == 3
        with atomic_path(tmp_path / "other") as temporary:
            temporary.write_text("whole")
        assert sorted(path.name[:3] for path in tmp_path.iterdir()) == [".b.", ".so", "oth"]
        writing.kill()
    sweep(tmp_path)
    assert sorted(path.name[:3] for path in tmp_path.iterdir()) == [".so", "oth"]


def test_a_temporary_file_that_another_process_takes_for_a_leftover_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, asked = leftovers._locked, list[Path]()

    def rival(path: Path, **options: bool) -> int | None:
        asked.append(path)
        if len(asked) < 3:
            path.unlink()
        if len(asked) == 1:  # and it still has the lock
            raise BlockingIOError
        return locked(path, **options)

    monkeypatch.setattr(leftovers, "_locked", rival)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert len(asked) == 3 and (tmp_path / "a").read_text() == "whole"
