"""A table of digests behaves as the list of bytes it stands for."""

import hashlib

import numpy as np

from timm_gam.images import Digests

KNOWN = [hashlib.sha256(text).digest() for text in (b"a", b"b", b"c", b"a")]


def test_it_holds_the_bytes_it_was_given() -> None:
    digests = Digests.of([*KNOWN, b""])
    assert digests.table.shape == (5, 32)
    assert list(digests) == [*KNOWN, b""]
    assert digests[-1] == b""
    assert digests.known.tolist() == [True, True, True, True, False]
    assert digests == Digests.of(iter([*KNOWN, b""]))
    assert digests != Digests.of(KNOWN)


def test_it_is_filled_place_by_place() -> None:
    digests = Digests.none(4)
    assert list(digests) == [b""] * 4
    for place, digest in enumerate(KNOWN):
        digests[place] = digest
    assert digests == Digests.of(KNOWN)
    digests[1] = b""
    assert list(digests) == [KNOWN[0], b"", *KNOWN[2:]]


def test_parts_of_it_are_tables_too() -> None:
    digests = Digests.of(KNOWN)
    assert list(digests[1:3]) == KNOWN[1:3]
    assert list(digests.take(np.array([3, 1]))) == [KNOWN[3], KNOWN[1]]
    assert list(digests.take(digests.known)) == KNOWN
    assert list(Digests.none(0)) == []


def test_equal_digests_are_one_group() -> None:
    groups = Digests.of(KNOWN).groups()
    assert groups[0] == groups[3]
    assert len(np.unique(groups)) == 3


def test_distinct_ones_are_in_order_and_once() -> None:
    assert list(Digests.of(KNOWN).distinct()) == sorted(set(KNOWN))
    assert list(Digests.none(0).distinct()) == []
