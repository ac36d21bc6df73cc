"""Publishing to the Hugging Face Hub: weights, configs, model cards, data sets and Spaces.

    python -m hub.publish    one trained model
    python -m hub.release    every run of a folder, and the record of what the names stand for
    python -m hub.dataset    a folder of photographs
    python -m hub.space      the search page of an index of photographs

Each is checked before anything is sent, goes up in one commit or none, and is pulled back and compared.
"""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
