"""How long a network takes for a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def seconds(run: Callable[[Tensor], Tensor], x: Tensor, layout: torch.memory_format) -> float:
    """The shorter of two runs after one that warms up.

    On some processors 7x7 convolutions of small maps are twice as fast in one layout, on others in the other.
    """
    # It waits for an accelerator. Imported here, as it brings torch's C++ extension tools, and their warnings, along.
    from torch.utils.benchmark.utils.timer import timer

    x = x.contiguous(memory_format=layout)
    run(x)
    times = []
    for _ in range(2):
        began = timer()
        run(x)
        times.append(timer() - began)
    return min(times)
