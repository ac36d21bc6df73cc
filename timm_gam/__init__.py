"""GAM, SE and CBAM ResNets for timm. Importing this package registers them:

    import timm, timm_gam
    model = timm.create_model("resnet50_gam", num_classes=0)

timm discovers no plug-ins by itself: without `import timm_gam` its answer is "Unknown model".
"""

from __future__ import annotations

import sys

from timm_gam._door import open_door
from timm_gam._import_hook import register_when_imported

__getattr__, __dir__, __all__ = open_door(__name__, __file__)

# timm takes seconds to import, for which `--help` should not wait: where it is not there yet, models register with it.
if "timm" in sys.modules:
    import timm_gam.models.attention_resnet as _registered  # noqa: F401
else:
    register_when_imported("timm", "timm_gam.models.attention_resnet")
