"""The recipe: every value that decides what a training run computes. Its defaults are the paper's where it has them.

Tang, Jiang and Yang (2023) fine-tune an ImageNet backbone for 200 epochs, attention parameters at 10 times the learning
rate. Optimizer, batch size and augmentation they do not state; those defaults are timm's usual ones for fine-tuning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from timm_gam.core import RecipeError
from timm_gam.images import DecodeLimits

GateInit = Literal["paper", "identity"]
Loss = Literal["cross-entropy", "arcface", "proxy-anchor"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
MODEL_BACKBONE = "imagenet"
"""The default start: timm's ImageNet weights of the plain network under the model."""

COMPUTE_KEYS = ("device", "workers", "cache_images", "max_scans", "max_decode_mb", "max_decode_seconds")
"""What a resumed run may be told anew: nothing that changes what it computes."""

DATA_KEYS = (
    "data_dir", "dataset", "image_column", "label_column", "id_column", "config_name", "image_root", "test_split",
    "val_share",
)  # fmt: skip
"""What names the images of a run and splits them."""


def _no_truth_value(value: object) -> object:
    """pydantic takes True for 1, and text such as 1e-3, which YAML does not read as a number, for that number."""
    if isinstance(value, bool):
        raise ValueError("a number is needed")
    return value


_NUMBER = BeforeValidator(_no_truth_value)
Positive = Annotated[int, Field(ge=1), _NUMBER]
Count = Annotated[int, Field(ge=0), _NUMBER]
_MOST = 1e38  # about the largest float32
Amount = Annotated[float, Field(ge=0, le=_MOST), _NUMBER]
Share = Annotated[float, Field(ge=0, lt=1), _NUMBER]
ProperShare = Annotated[float, Field(gt=0, lt=1), _NUMBER]
AboveZero = Annotated[float, Field(gt=0, le=_MOST), _NUMBER]
AreaShare = Annotated[float, Field(gt=0, le=1), _NUMBER]


@dataclass(frozen=True, config=ConfigDict(allow_inf_nan=False))
class Recipe:
    """How a model is trained. Every field is a key of config.yaml; the common ones are also options.

    Raises:
        RecipeError: a value that is not legal.
    """

    model: str = "resnet50_gam"
    start: str = MODEL_BACKBONE  # or scratch, a pretrained name, hf-hub:, local-dir:, a safetensors file
    gate_init: GateInit = "paper"  # or identity; of attention layers that the start does not hold

    data_dir: str | None = None  # class folders or parquet
    dataset: str | None = None  # a Hub id[@revision], or synthetic
    image_column: str | None = None  # of parquet or a Hub data set
    label_column: str | None = None
    id_column: str | None = None
    config_name: str | None = None  # of a data set that has several configurations
    image_root: str | None = None  # a folder where images may be that local parquet names by their path
    test_split: str | None = None  # the split scored once at the end, or none; None: test, where there is one
    val_share: ProperShare = 0.1  # of each class's training images; they choose the best epoch

    epochs: Positive = 200
    batch_size: Positive = 64  # images per forward pass, over all devices
    accumulate: Positive = 1  # batches per update
    opt: str = "sgd"  # any of timm.optim.list_optimizers(); timm's sgd is Nesterov's
    lr: AboveZero = 0.01
    attention_lr_scale: Amount = 10.0
    momentum: Share = 0.9
    weight_decay: Amount = 1e-4
    clip_grad: AboveZero | None = None  # largest gradient norm
    sched: Literal["cosine", "poly", "step"] = "cosine"  # per update, to zero
    warmup_epochs: Count = 5
    loss: Loss = "cross-entropy"
    per_class: Annotated[int, Field(ge=2), _NUMBER] = 4  # images of a class in a batch, for arcface and proxy-anchor
    label_smoothing: Share = 0.0
    drop_path: Share = 0.0
    freeze: tuple[str, ...] = ()  # prefixes of parameter names; "backbone": all but attention and classifier
    ema_decay: ProperShare | None = None  # then the averaged weights are validated and kept

    img_size: Positive | None = None  # None: the model's own
    scale: tuple[AreaShare, AreaShare] = (0.08, 1.0)  # share of the area that a random crop keeps
    hflip: Share = 0.5
    color_jitter: Amount = 0.4
    aa: str | None = None  # timm's auto augment, such as rand-m9-mstd0.5
    reprob: Share = 0.0  # random erasing
    mixup: Amount = 0.0
    cutmix: Amount = 0.0

    device: str | None = None  # None: cuda where there is one, else cpu
    workers: Count | None = None  # loader processes; None: by device
    amp: StrictBool = False
    amp_dtype: Literal["bfloat16", "float16"] = "bfloat16"
    channels_last: StrictBool = False
    torchcompile: str | None = None  # backend
    seed: Count = 0
    deterministic: StrictBool = False
    cache_images: Count = 1024  # MB of decoded training images kept in memory
    max_scans: Positive = DecodeLimits.scans  # what one image may take to decode
    max_decode_mb: Positive = DecodeLimits.megabytes
    max_decode_seconds: AboveZero = DecodeLimits.seconds

    validate_every: Positive = 1  # epochs
    save_every: Count = 0  # updates and epochs' ends; 0: by time alone

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        try:
            recipe = handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            legal = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            raise RecipeError(f"{first['loc'][0]} is {first['input']!r}; legal: {legal}") from error
        if recipe.scale[0] > recipe.scale[1]:
            raise RecipeError(f"scale is {recipe.scale}; legal: two shares, 0 < low <= high <= 1")
        if recipe.loss != "cross-entropy" and (recipe.mixup or recipe.cutmix or recipe.label_smoothing):
            raise RecipeError(
                f"loss {recipe.loss} came with mixup, cutmix or label smoothing; those are for cross-entropy"
            )
        return recipe

    @property
    def limits(self) -> DecodeLimits:
        """What one image may take to decode."""
        return DecodeLimits(self.max_scans, self.max_decode_mb, self.max_decode_seconds)

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
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    legal = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := next((key for key in given if key not in legal), None):
        raise RecipeError(f"{where} has an unknown key '{unknown}'; legal: {', '.join(legal)}")
    try:
        return Recipe(**given)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


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
