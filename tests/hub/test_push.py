"""A folder becomes a repository: what is sent, what is removed, what is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub import compare_with_hub, push_folder
from tests.loopback_hub import LoopbackHub
from timm_gam.core import RefusedError


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_the_head_becomes_the_folder(hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    first = write(tmp_path / "first", a_dot_txt="1", b_dot_txt="1", data__old_dot_parquet="x" * 99)
    hub.add("datasets", "me/set", first)
    second = write(tmp_path / "second", a_dot_txt="1", b_dot_txt="2", data__new_dot_parquet="y" * 99)
    changes = compare_with_hub(second, "me/set", "dataset")
    assert (changes.added, changes.changed) == (("data/new.parquet",), ("b.txt",))
    assert (changes.removed, changes.unchanged) == (("data/old.parquet",), ("a.txt",))
    pushed = push_folder(second, "me/set", repo_type="dataset", message="second")
    assert pushed.commit == hub.head("datasets", "me/set").id
    assert set(hub.head("datasets", "me/set").files) == {"a.txt", "b.txt", "data/new.parquet"}
    assert hub.head("datasets", "me/set").parent == changes.parent
    assert not push_folder(second, "me/set", repo_type="dataset", message="again").changes
    assert len(hub.repository("datasets", "me/set").commits) == 3


@pytest.mark.parametrize("repo_id", ["no spaces/name", "a/b/c", "..", "a/../b"])
def test_refuses_what_is_no_id(repo_id: str, hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is no Hub id; one reads owner/name"):
        push_folder(write(tmp_path / "folder", a_dot_txt="1"), repo_id, message="x")
    assert hub.requests == []
