"""`python -m timm_gam.train.table1`: the old door of `python -m eval.table1`, which needs training and evaluation."""

from __future__ import annotations

import sys

from eval.table1 import main

if __name__ == "__main__":
    sys.exit(main())
