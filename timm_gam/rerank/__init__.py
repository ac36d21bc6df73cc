"""Better rankings from the same vectors: query expansion, database augmentation, diffusion, k-reciprocal, whitening.

Functions over torch tensors on any device. `own` says which gallery row is a query itself. In the strict form that row
helps nobody: the ranking of a query is what it would be if the gallery did not hold the row. In the transductive form
the gallery is prepared once with every row in it, the queries' own included, and a query is only not ranked for itself.
"""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
