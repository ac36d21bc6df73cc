"""Images with the same bytes."""

from __future__ import annotations

from timm_gam.images import exact_groups


def test_exact_groups() -> None:
    assert exact_groups([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]
