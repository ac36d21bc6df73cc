"""Training: fine-tune any timm model on labelled images, validated by retrieval. `python -m timm_gam.train --help`."""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
