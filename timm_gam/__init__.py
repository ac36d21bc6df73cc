"""GAM, SE and CBAM ResNets for timm. Importing this package registers them:

    import timm, timm_gam
    model = timm.create_model("resnet50_gam", num_classes=0)

timm discovers no plug-ins by itself: without `import timm_gam` its answer is "Unknown model".
"""

from __future__ import annotations

from timm_gam import attention_resnet as attention_resnet  # registers the models
from timm_gam.attention import attention_parameters
from timm_gam.errors import CheckpointError, ExportError, HubError, TimmGamError, UnknownModelError
from timm_gam.gam import GlobalAttention
from timm_gam.inference import OptimizedNetwork, optimize
from timm_gam.namespace import hub_namespace
from timm_gam.transfer import TransferReport, from_backbone

__all__ = [
    "CheckpointError",
    "ExportError",
    "GlobalAttention",
    "HubError",
    "OptimizedNetwork",
    "TimmGamError",
    "TransferReport",
    "UnknownModelError",
    "attention_parameters",
    "from_backbone",
    "hub_namespace",
    "optimize",
]
