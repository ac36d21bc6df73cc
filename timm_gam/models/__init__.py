"""The model zoo: GAM, SE and CBAM ResNets registered with timm, and weights that fit or are refused."""

from __future__ import annotations

import timm  # registers our models, before one of their modules is half imported  # noqa: F401

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
