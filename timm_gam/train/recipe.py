"""The recipe: every value that decides what a training run computes. Its defaults are the paper's where it has them.

Tang, Jiang and Yang (2023) fine-tune an ImageNet backbone for 200 epochs, attention parameters at 10 times the learning
rate. Optimizer, batch size and augmentation they do not state; those defaults are timm's usual ones for fine-tuning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from timm_gam.core import RecipeError

LOSSES = ("cross-entropy", "arcface", "proxy-anchor")
MODEL_BACKBONE = "imagenet"
"""The default start: timm's ImageNet weights of the plain network under the model."""

COMPUTE_KEYS = ("device", "workers", "cache_images")
"""What a resumed run may be told anew: nothing that changes what it computes."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "gate_init": ("paper", "identity"),
    "loss": LOSSES,
    "sched": ("cosine", "poly", "step"),
    "amp_dtype": ("bfloat16", "float16"),
}
_LEAST: dict[str, float] = {
    "epochs": 1, "batch_size": 1, "accumulate": 1, "img_size": 1, "per_class": 2, "validate_every": 1,
    "warmup_epochs": 0, "attention_lr_scale": 0, "weight_decay": 0, "cache_images": 0, "save_every": 0, "seed": 0,
    "workers": 0, "mixup": 0, "cutmix": 0, "color_jitter": 0,
}  # fmt: skip
_SHARES = ("label_smoothing", "drop_path", "hflip", "reprob")  # in [0, 1)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Every field is a key of config.yaml; the common ones are also options.

    Raises:
        RecipeError: a value that is not legal.
    """

    model: str = "resnet50_gam"
    start: str = MODEL_BACKBONE  # or scratch, a pretrained name, hf-hub:, local-dir:, a safetensors file
    gate_init: str = "paper"  # or identity; of attention layers that the start does not hold

    data_dir: str | None = None  # class folders or parquet
    dataset: str | None = None  # a Hub id[@revision], or synthetic
    image_column: str | None = None  # of parquet or a Hub data set
    label_column: str | None = None
    id_column: str | None = None
    val_share: float = 0.1  # of each class's training images; they choose the best epoch

    epochs: int = 200
    batch_size: int = 64  # images per forward pass, over all devices
    accumulate: int = 1  # batches per update
    opt: str = "sgd"  # any of timm.optim.list_optimizers(); timm's sgd is Nesterov's
    lr: float = 0.01
    attention_lr_scale: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_grad: float | None = None  # largest gradient norm
    sched: str = "cosine"  # per update, to zero
    warmup_epochs: int = 5
    loss: str = "cross-entropy"
    per_class: int = 4  # images of a class in a batch, for arcface and proxy-anchor
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    freeze: tuple[str, ...] = ()  # prefixes of parameter names; "backbone": all but attention and classifier
    ema_decay: float | None = None  # then the averaged weights are validated and kept

    img_size: int | None = None  # None: the model's own
    scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    hflip: float = 0.5
    color_jitter: float = 0.4
    aa: str | None = None  # timm's auto augment, such as rand-m9-mstd0.5
    reprob: float = 0.0  # random erasing
    mixup: float = 0.0
    cutmix: float = 0.0

    device: str | None = None  # None: cuda where there is one, else cpu
    workers: int | None = None  # loader processes; None: by device
    amp: bool = False
    amp_dtype: str = "bfloat16"
    channels_last: bool = False
    torchcompile: str | None = None  # backend
    seed: int = 0
    deterministic: bool = False
    cache_images: int = 1024  # MB of decoded training images kept in memory

    validate_every: int = 1  # epochs
    save_every: int = 0  # updates and epochs' ends; 0: by time alone

    def __post_init__(self) -> None:
        for name, legal in _CHOICES.items():
            if getattr(self, name) not in legal:
                raise _illegal(name, getattr(self, name), ", ".join(legal))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise _illegal(name, value, f"at least {least}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise _illegal(name, getattr(self, name), "at least 0, below 1")
        for name in ("lr", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise _illegal(name, value, "above 0")
        for name in ("val_share", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise _illegal(name, value, "above 0, below 1")
        if not 0 <= self.momentum < 1:
            raise _illegal("momentum", self.momentum, "at least 0, below 1")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise _illegal("scale", self.scale, "two shares, 0 < low <= high <= 1")
        if self.loss != "cross-entropy" and (self.mixup or self.cutmix or self.label_smoothing):
            raise RecipeError(
                f"loss {self.loss} came with mixup, cutmix or label smoothing; those are for cross-entropy"
            )

    def as_yaml(self) -> str:
        """The effective recipe as it stands in config.yaml."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return yaml.safe_dump(values, sort_keys=False)


def recipe_from(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe of `values` over the defaults.

    Args:
        values: Field name -> value; names may have hyphens.
        where: What holds the values, for errors.

    Raises:
        RecipeError: an unknown name, or a value of another type.
    """
    hints = get_type_hints(Recipe)
    known: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise RecipeError(f"{where} has an unknown key '{key}'; legal: {', '.join(hints)}")
        known[name] = _typed(name, value, hints[name], where)
    return Recipe(**known)


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a YAML file, plain data only.

    Raises:
        RecipeError: it cannot be read or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read '{path}': {error.strerror}; name a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"'{path}' is not plain YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(f"'{path}' holds a {type(content).__name__}; a mapping such as 'epochs: 100' is needed")
    return content


def _typed(name: str, value: Any, hint: Any, where: str) -> Any:
    """`value` as the field's type. YAML reads 1e-3 as text, so text that is a number is one."""
    kinds = get_args(hint) if type(None) in get_args(hint) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
        elif kind is int:
            if not isinstance(value, bool) and int(value) == float(value):
                return int(value)
        elif kind is float:
            if not isinstance(value, bool):
                return float(value)
        elif kind is str:
            if isinstance(value, str):
                return value
        elif isinstance(value, (list, tuple)):
            inner = get_args(kind)[0]
            return tuple(_typed(name, item, inner, where) for item in value)
    except (TypeError, ValueError, OverflowError):
        pass
    wanted = getattr(kind, "__name__", str(kind)) if not get_args(kind) else "a list"
    raise RecipeError(f"{where} has {name} = {value!r}; a value of type {wanted} is needed")


def _illegal(name: str, value: Any, legal: str) -> RecipeError:
    return RecipeError(f"{name} is {value!r}; legal: {legal}")
