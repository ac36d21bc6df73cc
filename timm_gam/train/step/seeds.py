"""Every random draw of a run comes from its seed and a name of what is drawn, never from a generator's history.

So an image is augmented alike whichever process loads it, several devices see what one would, and a resumed run
needs no saved generator to go on exactly.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_for(seed: int, *what: int | str) -> int:
    """A number in [0, 2**63) from the run's seed and what it is for, such as ("augment", epoch, row)."""
    digest = hashlib.blake2b(repr((seed, *what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_augmentation(value: int) -> None:
    """Seed what timm's transforms and mixup draw from in this process: random, numpy and torch on the CPU."""
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.default_generator.manual_seed(value)
