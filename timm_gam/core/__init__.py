"""What everything stands on: errors, command lines, files, processes, signals, downloads. No image, no model."""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
