"""Where the zoo lives on the Hugging Face Hub, in one place."""

from __future__ import annotations

import os


def hub_namespace() -> str:
    """The Hub user or organisation that holds the COREL weights and data set.

    "timm-gam", or the environment variable TIMM_GAM_NAMESPACE where it is set: for a fork, a mirror or an
    organisation of your own. Pretrained tags are made from it when `timm_gam` is imported, so set it before.

    >>> import timm_gam
    >>> "/" in timm_gam.hub_namespace()
    False
    """
    return os.environ.get("TIMM_GAM_NAMESPACE") or "timm-gam"
