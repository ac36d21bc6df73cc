"""Any timm model in MTEB's image tasks, with the model's own preprocessing (extra `mteb`).

import mteb
from eval.mteb import timm_encoder

results = mteb.evaluate(timm_encoder("resnet50.a1_in1k"), mteb.get_tasks(tasks=["CUB200I2IRetrieval"]))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from timm_gam.core import ModelError
from timm_gam.embed import Embedder, EmbedSettings
from timm_gam.images import Preprocessing
from timm_gam.models import LoadedModel, load_model

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ImportError as error:
    raise ModelError("MTEB is not installed; pip install 'timm-gam[mteb]'") from error


def timm_encoder(
    name: str, *, checkpoint: str | None = None, pretrained: bool = True, settings: EmbedSettings | None = None
) -> TimmEncoder:
    """An MTEB encoder of a timm model.

    Args:
        name: "name", "name.tag", "hf-hub:owner/repo[@revision]" or "local-dir:folder".
        checkpoint: A safetensors file instead of the pretrained weights.
        pretrained: Without `checkpoint`: the pretrained weights or random ones.
        settings: Layer, pooling, views, device and precision; MTEB's own loader makes the batches.

    Raises:
        TimmGamError: as `timm_gam.load_model`.
    """
    return TimmEncoder(load_model(name, checkpoint=checkpoint, pretrained=pretrained), settings or EmbedSettings())


class TimmEncoder(AbsEncoder):  # type: ignore[misc]
    """Images -> embeddings, as `python -m eval.retrieval` makes them.

    Args:
        loaded: From `timm_gam.load_model`.
        settings: How it runs.
    """

    def __init__(self, loaded: LoadedModel, settings: EmbedSettings) -> None:
        embedder = Embedder(loaded, settings=settings)
        self.loaded, self.settings = loaded, embedder.settings
        self.preprocessing: Preprocessing = embedder.preprocessing
        self.model = embedder.network().to(settings.device)
        info = loaded.info
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"timm/{info.name.rpartition('/')[2]}",
                "revision": info.weights.sha256[:40],
                "modalities": ["image"],
                "n_parameters": info.num_params,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
            }
        )

    def encode(self, inputs: Iterable[dict[str, Any]], **kwargs: Any) -> NDArray[np.float32]:
        """(N, D) float32 embeddings of MTEB's batches.

        Raises:
            ModelError: a batch has no images.
        """
        transform = self.preprocessing.transform()
        amp = self.settings.amp_dtype
        device = torch.device(self.settings.device)
        vectors = []
        with torch.inference_mode(), torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            for batch in inputs:
                if "image" not in batch:
                    raise ModelError(f"a batch holds {', '.join(batch)} and no image; timm models embed images only")
                pixels = torch.stack([transform(_rgb(image)) for image in batch["image"]])
                vectors.append(self.model(pixels.to(device)).float().cpu().numpy())
        embedded: NDArray[np.float32] = np.concatenate(vectors)
        return embedded


def _rgb(image: Image.Image | torch.Tensor) -> Image.Image:
    if isinstance(image, torch.Tensor):  # (3, H, W) uint8, or float in [0, 1]
        array = image if image.dtype == torch.uint8 else image.mul(255).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(array.permute(1, 2, 0).cpu().numpy())
    return image.convert("RGB")
