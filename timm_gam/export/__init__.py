"""Export a timm model as ONNX, torch.export or AOTInductor files, checked and described."""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
