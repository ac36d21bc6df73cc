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
from timm.models import adapt_input_conv, is_model_in_modules
from torch import Tensor, nn

from timm_gam.core import CheckpointError, TimmGamError
from timm_gam.models.attention import GateInit, attention_layers
from timm_gam.models.checkpoint import compare_tensors, name_some, read_safetensors
from timm_gam.models.pretrained import check_model_name, find_pretrained

__all__ = ["TransferReport", "from_backbone"]

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
    """
    name = check_model_name(model_name.partition(".")[0])
    if not is_model_in_modules(name, ["attention_resnet"]):
        variants = "timm.list_models(module='attention_resnet')"
        raise TimmGamError(f"'{model_name}' has no attention layers to start; the variants: {variants}")
    model = timm.create_model(name, pretrained=False, gate_init=gate_init, **kwargs)
    tensors = _read(source)
    first_conv = f"{model.pretrained_cfg['first_conv']}.weight"
    in_chans = model.get_parameter(first_conv).shape[1]  # older timm ResNets have no such attribute
    if first_conv in tensors and in_chans != tensors[first_conv].shape[1] == 3:
        tensors[first_conv] = adapt_input_conv(in_chans, tensors[first_conv])
    layers = tuple(f"{layer}." for layer, _ in attention_layers(model))
    classifier = f"{model.pretrained_cfg['classifier']}."
    missing, unexpected, misshapen = compare_tensors(tensors, model)
    left_out = [name for name in misshapen if name.startswith(classifier)]
    wrong = [n for n in (*missing, *unexpected) if not n.startswith((*layers, classifier))]
    wrong += [n for n in misshapen if n not in left_out]
    if wrong:
        raise CheckpointError(
            f"'{source}' is not the backbone of {name}: {len(wrong)} tensors missing, unexpected or of another shape "
            f"({name_some(wrong)}); name weights of the plain network it is built on"
        )
    kept = {n: t for n, t in tensors.items() if n not in (*unexpected, *left_out)}
    model.load_state_dict(kept, strict=False)
    report = TransferReport(
        model=name,
        source=str(source),
        gate_init=gate_init,
        loaded=tuple(kept),
        missing=(*missing, *left_out),
        unexpected=(*unexpected, *left_out),
    )
    return model, report


def _read(source: str | Path) -> dict[str, Tensor]:
    text = str(source)
    if isinstance(source, Path) or Path(text).suffix in _WEIGHT_SUFFIXES:
        return read_safetensors(source)
    return read_safetensors(find_pretrained(text).file)
