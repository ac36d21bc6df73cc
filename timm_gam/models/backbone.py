"""Start an attention ResNet from a plain backbone: attention layers new, everything else loaded.

With `gate_init="identity"`, the default here, the new model computes the backbone's own features at step 0, and its
gates are free to move from there; see `attention.py` for how. With "paper" every residual branch starts scaled
by its random gates, about a quarter for GAM and CBAM, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model_in_modules
from torch import nn

from timm_gam.core import CheckpointError, TimmGamError
from timm_gam.models.attention import GateInit, attention_layers
from timm_gam.models.weights.checkpoint import read_safetensors
from timm_gam.models.weights.fit import classifier_names, fit_tensors, name_some
from timm_gam.models.weights.pretrained import check_model_name, find_pretrained

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class TransferReport:
    """What a transfer loaded and what it did not.

    Attributes:
        model: The variant that was started.
        source: Where the backbone came from.
        gate_init: How its gates start.
        loaded: Names of tensors taken from the source.
        missing: Tensors of the model that the source lacks: new attention layers, or a new classifier.
        unexpected: Tensors of the source that the model has no place for, such as another classifier.
    """

    model: str
    source: str
    gate_init: GateInit
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.model} from {self.source}, gates '{self.gate_init}'"]
        for what, names in (("loaded", self.loaded), ("missing", self.missing), ("unexpected", self.unexpected)):
            lines.append(f"  {what:<10} {len(names):>4} tensors" + (f": {name_some(names)}" if names else ""))
        return "\n".join(lines)


def from_backbone(
    model_name: str, source: str | Path, *, gate_init: GateInit = "identity", **kwargs: Any
) -> tuple[nn.Module, TransferReport]:
    """Create `model_name` with the weights of a plain backbone.

    The source's classifier is kept where the class counts agree, otherwise the model has a new one.

    Args:
        model_name: One of our variants, such as "resnet50_gam".
        source: The plain backbone: a safetensors file, or the name of pretrained
            weights, such as "resnet50.a1_in1k", "hf-hub:org/repo" or "local-dir:folder".
        gate_init: "identity" (the backbone's own features at step 0) or "paper".
        **kwargs: Of `timm.create_model`, such as `num_classes`.

    Returns:
        The model and a report of what was loaded.

    Raises:
        CheckpointError: the source cannot be read, or its backbone is not the variant's.
        HubError: the source is on the Hub and cannot be had.
        TimmGamError: `model_name` is not one of our variants.

    >>> model, report = from_backbone("test_resnet_gam", "test_resnet.corel", num_classes=80)
    >>> report.unexpected, all(".se." in name for name in report.missing)
    ((), True)
    """
    name = check_model_name(model_name.partition(".")[0])
    if not is_model_in_modules(name, ["attention_resnet"]):
        variants = "timm.list_models(module='attention_resnet')"
        raise TimmGamError(f"'{model_name}' has no attention layers to start; the variants: {variants}")
    model = timm.create_model(name, pretrained=False, gate_init=gate_init, **kwargs)
    is_file = isinstance(source, Path) or Path(source).suffix in _WEIGHT_SUFFIXES
    fit = fit_tensors(read_safetensors(source if is_file else find_pretrained(str(source)).file), model)
    kept = fit.but_for([*(f"{layer}." for layer, _ in attention_layers(model)), *classifier_names(model)])
    if not kept.complete:
        raise CheckpointError(
            f"'{source}' is not the backbone of {name}: {kept}; name weights of the plain network it is built on"
        )
    model.load_state_dict(kept.tensors, strict=False)
    report = TransferReport(
        model=name,
        source=str(source),
        gate_init=gate_init,
        loaded=tuple(kept.tensors),
        missing=(*fit.missing, *fit.misshapen),
        unexpected=(*fit.unexpected, *fit.misshapen),
    )
    return model, report
