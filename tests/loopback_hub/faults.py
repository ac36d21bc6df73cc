"""What can go wrong between a client and the Hub, on purpose and a given number of times."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal

FaultKind = Literal["500", "full", "drop", "truncate", "flip", "slow", "stall", "conflict"]
"""500: the server fails. full: the account has no room. drop: the connection ends in mid-body.
truncate: the file ends early, and the length says so. flip: one byte of the body is another. slow: the body comes in
small pieces, with pauses. stall: nothing comes. conflict: somebody else commits first."""


@dataclass
class Fault:
    """Happens to the first `times` requests whose "METHOD path" the pattern is found in."""

    kind: FaultKind
    pattern: str
    times: int = 1


@dataclass
class Faults:
    """The faults yet to happen."""

    waiting: list[Fault] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: FaultKind, pattern: str, times: int = 1) -> None:
        self.waiting.append(Fault(kind, pattern, times))

    def clear(self) -> None:
        self.waiting.clear()
        self.happened.clear()

    def next(self, request: str) -> FaultKind | None:
        """The fault that meets this request, counted down."""
        with self._lock:
            for fault in self.waiting:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    self.happened.append(f"{fault.kind} {request}")
                    return fault.kind
        return None
