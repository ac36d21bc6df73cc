"""What is trained and how fast: parameter groups for timm's optimizers and schedulers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn

from timm_gam.core import RecipeError, one_line
from timm_gam.models import attention_parameters
from timm_gam.train.recipe import Recipe

_BACKBONE = "backbone"


def freeze(model: nn.Module, prefixes: Iterable[str]) -> int:
    """Stop training the parameters whose names start with one of `prefixes`; "backbone" names all but attention layers
    and the classifier.

    Returns:
        How many parameters are frozen.

    Raises:
        RecipeError: a prefix names no parameter, or nothing is left to train.
    """
    attention = attention_parameters(model)
    classifier = f"{getattr(model, 'pretrained_cfg', {}).get('classifier') or 'fc'}."
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        if prefix == _BACKBONE:
            named = [n for n in parameters if n not in attention and not n.startswith(classifier)]
        else:
            named = [n for n in parameters if n == prefix or n.startswith(prefix)]
        if not named:
            layers = ", ".join(dict.fromkeys(n.partition(".")[0] for n in parameters))
            raise RecipeError(f"freeze names '{prefix}', which no parameter starts with; legal: {_BACKBONE}, {layers}")
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(p.requires_grad for p in parameters.values()):
        raise RecipeError("freeze leaves nothing to train; name fewer layers")
    return sum(p.numel() for p in parameters.values() if not p.requires_grad)


def set_training_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms whose parameters are all frozen: their statistics stay too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trained parameters in up to four groups: attention layers or not, with weight decay or without (biases, norms).

    `lr_scale` is what timm's schedulers multiply the learning rate by. The paper's 10 is `recipe.attention_lr_scale`.
    """

    attention = {id(p) for p in attention_parameters(model).values()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = recipe.attention_lr_scale if id(parameter) in attention else 1.0
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": p, "lr_scale": scale, "weight_decay": decay} for (scale, decay), p in groups.items()]


def create_optimization(model: nn.Module, recipe: Recipe, updates_per_epoch: int) -> tuple[torch.optim.Optimizer, Any]:
    """timm's optimizer over `parameter_groups`, and timm's scheduler, to be stepped with the number of each update.

    Raises:
        RecipeError: timm has no such optimizer, or it cannot be used.
    """
    if recipe.opt not in list_optimizers():
        near = ", ".join(difflib.get_close_matches(recipe.opt, list_optimizers(), n=3)) or "sgd, adamw, lamb"
        raise RecipeError(f"opt is '{recipe.opt}'; legal: timm.optim.list_optimizers(), such as {near}")
    try:
        optimizer = create_optimizer_v2(
            model,
            recipe.opt,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            param_group_fn=lambda model: parameter_groups(model, recipe),
        )
    except (AssertionError, ImportError, ValueError) as error:  # timm asserts that there is CUDA, or a package
        raise RecipeError(f"opt {recipe.opt} cannot be used here: {one_line(error)}; name another") from error
    if getattr(optimizer, "is_second_order", False):
        raise RecipeError(f"opt {recipe.opt} needs second derivatives, which training does not take; name another")
    scheduler, _ = create_scheduler_v2(
        optimizer,
        recipe.sched,
        num_epochs=recipe.epochs,
        warmup_epochs=min(recipe.warmup_epochs, max(recipe.epochs - 1, 0)),
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    scheduler.step_update(0)
    return optimizer, scheduler
