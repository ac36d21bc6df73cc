"""Tensors of a file and the model they are for: read as timm reads them, and what is missing or has no place.

timm loads non-strictly as soon as the class count differs or `features_only` is set, so a checkpoint without its
attention tensors would load without a word. `fit_tensors` comes before every load, here and in the other rooms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import adapt_input_conv, clean_state_dict
from torch import Tensor, nn

from timm_gam.core import CheckpointError
from timm_gam.models.attention import starts_from_plain


@dataclass(frozen=True)
class Fit:
    """Tensors under the names of a model, and where the two do not agree.

    Attributes:
        tensors: All of them, without the prefixes that DistributedDataParallel and torch.compile put before names,
            renamed and resized by the architecture's own rules.
        missing: Names that the model has and they lack. Counters of batch norm (`num_batches_tracked`) do not count:
            no output needs them.
        unexpected: Names that the model does not have.
        misshapen: Names of both, of another shape, or whole numbers (quantised, say) where the model has fractions.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor has its place, and every place its tensor."""
        return not (self.missing or self.unexpected or self.misshapen)

    def but_for(self, prefixes: Sequence[str]) -> Fit:
        """The same where names with these prefixes, such as "fc.", need not agree; `tensors` then leaves those out."""
        start = tuple(prefixes)
        apart = {name for name in (*self.unexpected, *self.misshapen) if name.startswith(start)}
        names = (
            [n for n in kind if not n.startswith(start)] for kind in (self.missing, self.unexpected, self.misshapen)
        )
        missing, unexpected, misshapen = map(tuple, names)
        return Fit({n: t for n, t in self.tensors.items() if n not in apart}, missing, unexpected, misshapen)

    def __str__(self) -> str:
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape or kind", self.misshapen),
        )
        return "; ".join(f"{len(names)} tensors {what} ({name_some(names)})" for what, names in kinds if names)


def fit_tensors(tensors: Mapping[str, Tensor], model: nn.Module, *, adapt_channels: bool = True) -> Fit:
    """Give the tensors of a checkpoint the names and shapes of a model, as timm does, and compare.

    Args:
        tensors: Of a state dict; not changed.
        model: A timm model; on the meta device is enough.
        adapt_channels: Let a first convolution of 3 channels stand for another number, by timm's rule. False where
            timm itself comes after.

    >>> import timm
    >>> trained = timm.create_model("test_resnet", num_classes=4).state_dict()
    >>> fit = fit_tensors({f"module.{name}": t for name, t in trained.items()}, timm.create_model("test_resnet"))
    >>> fit.misshapen, fit.but_for(["fc."]).complete
    (('fc.weight', 'fc.bias'), True)
    """
    own = model.state_dict()
    found: dict[str, Tensor] = clean_state_dict(clean_state_dict(dict(tensors)))  # older timm takes off one prefix only
    if found.keys() != own.keys() or any(found[name].shape != own[name].shape for name in own):
        found = _by_the_architecture(found, model)
    if adapt_channels:
        found |= _adapted(found, own, _first_convolutions(model))
    return Fit(
        found,
        tuple(name for name in own if name not in found and not name.endswith("num_batches_tracked")),
        tuple(name for name in found if name not in own),
        tuple(name for name in found if name in own and not _alike(found[name], own[name])),
    )


def classifier_names(model: nn.Module) -> list[str]:
    """Prefixes of the classifiers' tensors, such as "fc."; a distilled network has two."""
    return [f"{name}." for name in _names(getattr(model, "pretrained_cfg", {}).get("classifier"))]


def class_count(tensors: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Rows of the classifier among tensors under a model's names; None where they have none."""
    weights = (tensors[f"{name}weight"] for name in classifier_names(model) if f"{name}weight" in tensors)
    return next((int(weight.shape[0]) if weight.ndim else 1 for weight in weights), None)


def check_fit(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Refuse a state dict that lacks or changes any tensor but the classifier's; otherwise return it, names cleaned.

    timm calls this (`pretrained_filter_fn`) before it loads pretrained weights into one of our models. The first
    convolution may have other input channels, which timm adapts, and a model whose gates are at their identity start
    takes a plain backbone.

    Raises:
        CheckpointError: names the tensors that are missing, unexpected or of another shape.
    """
    fit = fit_tensors(state_dict, model, adapt_channels=False)
    apart = [*classifier_names(model), *_first_convolutions(model)]
    rest = fit.but_for([*apart, *starts_from_plain(model, fit.tensors)])
    if not rest.complete:
        architecture = getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__)
        raise CheckpointError(
            f"the checkpoint does not fit {architecture}: {rest}; "
            "to start from a plain backbone use timm_gam.from_backbone"
        )
    return fit.tensors


def adopt_fit(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Check a state dict as `check_fit` does, then give the model the tensors themselves.

    timm would copy them, and hold the new model and the whole file in memory at once. Only for tensors that nobody else
    holds, such as those of a file just read. The classifier is left to timm, which may want a new one.

    Raises:
        CheckpointError: as `check_fit`.
    """
    tensors = check_fit(state_dict, model)
    classifiers = tuple(classifier_names(model))
    for name, own in model.state_dict(keep_vars=True).items():
        tensor = tensors.get(name)
        same_kind = tensor is not None and (tensor.shape, tensor.dtype, tensor.device) == (
            own.shape,
            own.dtype,
            own.device,
        )
        if same_kind and not name.startswith(classifiers):
            own.data = tensor
    return tensors


def name_some(names: Sequence[str]) -> str:
    """The first three names and how many more there are, for one line."""
    return ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")


def _alike(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor can stand for another: copying would turn integers into nonsense without a word."""
    return tensor.shape == own.shape and (tensor.is_floating_point() or not own.is_floating_point())


def _by_the_architecture(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tensors of older checkpoints renamed, and positions resized, by the filter that timm's module has for them."""
    modules = [sys.modules[kind.__module__] for kind in type(model).__mro__ if kind.__module__.startswith("timm.")]
    filters: list[Callable[..., Any]] = [m.checkpoint_filter_fn for m in modules if hasattr(m, "checkpoint_filter_fn")]
    if not filters:
        return tensors
    try:
        return dict(filters[0](dict(tensors), model))
    except Exception:  # written for checkpoints of its own kind; what does not fit is named by the comparison
        return tensors


def _adapted(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """First convolutions of RGB weights for the model's number of channels, where that is another."""
    both = [n for n in names if n in tensors and n in own and tensors[n].ndim == own[n].ndim == 4]
    other = [n for n in both if 0 < own[n].shape[1] != tensors[n].shape[1] == 3]
    return {name: adapt_input_conv(own[name].shape[1], tensors[name]) for name in other}


def _first_convolutions(model: nn.Module) -> list[str]:
    return [f"{name}.weight" for name in _names(getattr(model, "pretrained_cfg", {}).get("first_conv"))]


def _names(value: Any) -> list[str]:
    """What a config says in one name or several; a config of a stranger may say anything."""
    several = value if isinstance(value, list | tuple) else [value]
    return [name for name in several if isinstance(name, str)]
