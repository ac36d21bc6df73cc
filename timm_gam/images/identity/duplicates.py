"""Images that a data set holds more than once with the same bytes; `similar_pictures` finds what is nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def exact_groups(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two or more places with the same digest, in order of their first."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(digests):
        places[digest].append(place)
    return [group for group in places.values() if len(group) > 1]
