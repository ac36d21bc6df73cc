"""Embeddings -> exact scores and nearest neighbours, and approximate indexes measured against them."""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
