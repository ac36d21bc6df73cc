"""An update's forward and backward pass as CUDA graphs: one launch each instead of some two thousand."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_gam.train import Batch, Trainer, set_training_mode

_NEAR = 0.02  # of the loss and of a gradient's norm, between a graph and the same work launched anew, in bfloat16


def capture_updates(trainer: Trainer, batch: Batch) -> bool:
    """Replace the forward and backward pass of a trainer's updates by graphs, for batches shaped like `batch`.

    Weights, statistics and gradients are afterwards as they were. The graphs are used only where loss and gradients
    of the batch are those of the ordinary pass.

    Returns:
        Whether it was done.
    """
    objective = trainer.objective
    set_training_mode(objective)
    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    pixels, target = trainer._prepared(batch, (0, 0, 0))
    dtype = getattr(torch, trainer.recipe.amp_dtype)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4
    try:
        # Weights are cast within the graph: a cast that autocast kept from outside would never see an update.
        with torch.autocast("cuda", dtype=dtype, enabled=trainer.recipe.amp, cache_enabled=False):
            ordinary = _loss_and_norm(trainer, pixels, target)
            torch.cuda.make_graphed_callables(objective, (pixels, target))
        captured = _loss_and_norm(trainer, pixels, target)
        same = bool(((captured - ordinary).abs() <= _NEAR * ordinary.abs()).all())
    except RuntimeError:
        same = False
    if not same:
        objective.__dict__.pop("forward", None)
    trainer.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in objective.named_buffers():
            buffer.copy_(before[name])
    return same


def _loss_and_norm(trainer: Trainer, pixels: Tensor, target: Tensor) -> Tensor:
    """(2,) float32: the loss of a batch and the norm of its gradient."""
    trainer.optimizer.zero_grad(set_to_none=True)
    loss = trainer.objective(pixels, target)
    loss.backward()
    norms = [p.grad.norm() for p in trainer.objective.parameters() if p.grad is not None]
    return torch.stack([loss.detach().float(), torch.stack(norms).norm()])
