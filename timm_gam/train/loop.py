"""The training loop: updates, epochs, and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from timm_gam.core import DivergedError, RecipeError, StopRequest, World
from timm_gam.images import Preprocessing
from timm_gam.train.output.checkpoint import Position
from timm_gam.train.recipe import Recipe
from timm_gam.train.step.batches import Batch
from timm_gam.train.step.objective import Objective
from timm_gam.train.step.optimizer import create_optimization, set_training_mode
from timm_gam.train.step.seeds import seed_augmentation, seed_for
from timm_gam.train.step.sync_norm import synchronise_norms
from timm_gam.train.step.unreachable_taps import zero_unreachable_gradients


class Trainer:
    """A model in training: what changes with every update, and how an update changes it.

    Attributes:
        objective: The loss around the model.
        optimizer: timm's.
        scaler: Of fp16 gradients; disabled otherwise.
        ema: Averaged weights, or None.
    """

    def __init__(
        self,
        objective: Objective,
        preprocessing: Preprocessing,
        recipe: Recipe,
        world: World,
        num_classes: int,
        updates_per_epoch: int,
    ) -> None:
        self.recipe, self.world, self.preprocessing = recipe, world, preprocessing
        self.updates_per_epoch = updates_per_epoch
        self._format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        if world.size > 1:
            objective.model = synchronise_norms(objective.model, world.device)
        self.objective = objective.to(world.device).to(memory_format=self._format)
        if recipe.amp and world.device.type == "cpu":
            zero_unreachable_gradients(self.objective.model, preprocessing.input_size)
        self.optimizer, self.scheduler = create_optimization(self.objective, recipe, updates_per_epoch)
        self._amp_dtype: torch.dtype = getattr(torch, recipe.amp_dtype)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.amp and self._amp_dtype == torch.float16)
        self.ema = ModelEmaV3(self.objective.model, decay=recipe.ema_decay) if recipe.ema_decay is not None else None
        if recipe.torchcompile is not None:
            self.objective.compile(backend=recipe.torchcompile)
        self._forward: nn.Module = self.objective
        if world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.objective, device_ids=ids)
        scale = 255 * torch.tensor([preprocessing.mean, preprocessing.std], device=world.device)
        self._mean, self._std = scale.view(2, 1, 3, 1, 1)
        mixing = {"label_smoothing": recipe.label_smoothing, "num_classes": num_classes}
        self._mixup = Mixup(recipe.mixup, recipe.cutmix, **mixing) if recipe.mixup or recipe.cutmix else None
        self._erase = RandomErasing(recipe.reprob, mode="pixel", device=world.device) if recipe.reprob else None

    @property
    def kept_model(self) -> nn.Module:
        """The model that is validated and kept: the averaged one where there is one; its classifier is up to date."""
        model: nn.Module = self.ema.module if self.ema is not None else self.objective.model
        self.objective.set_classifier(model)
        return model

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights or buffers, by its name in the saved state."""
        return {"objective": self.objective, **({"ema": self.ema.module} if self.ema is not None else {})}

    def start_at(self, position: Position) -> None:
        """Set the learning rate to that of the position's next update."""
        self.scheduler.step_update(position.epoch * self.updates_per_epoch + position.update)

    def first_lr(self, position: Position) -> float:
        """The learning rate of the first update of the position's epoch, of groups with an `lr_scale` of 1."""
        self.start_at(Position(epoch=position.epoch))
        lr = next((g["lr"] / g["lr_scale"] for g in self.optimizer.param_groups if g["lr_scale"]), 0.0)
        self.start_at(position)
        return float(lr)

    def train(
        self,
        batches: Iterator[Batch],
        position: Position,
        stop: StopRequest,
        on_update: Callable[[float], None],
        pause: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end of the epoch; `position` moves with every update.

        Args:
            batches: Of the position's epoch, from its next update on.
            position: Where to begin.
            stop: Ends it after an update, in every process after the same one.
            on_update: Called after each update with the mean loss so far.
            pause: Asked after each update whether to return, to go on with another call.

        Returns:
            False where it was asked to stop.

        Raises:
            DivergedError: the loss is not finite.
            RecipeError: a batch norm has nothing to norm.
        """
        set_training_mode(self.objective)
        began, spent = time.perf_counter(), position.seconds
        # The loss is read one update late, when the device has it already: reading it never makes the device wait.
        unread: Tensor | None = None
        while position.update < self.updates_per_epoch:
            loss = self._update(list(islice(batches, self.recipe.accumulate)), position)
            summary = torch.stack([loss, torch.full_like(loss, float(bool(stop)))])
            summary = self.world.sum(summary) / self.world.size
            ends = self._read(unread, position)
            unread = summary
            position.update += 1
            position.seconds = spent + time.perf_counter() - began
            on_update(position.loss_sum / max(position.update - 1, 1))
            if ends or pause():
                break
        ends = self._read(unread, position)
        position.seconds = spent + time.perf_counter() - began
        return not ends

    def end_epoch(self, position: Position, lr: float) -> dict[str, float]:
        """What metrics.csv says of the epoch just trained, but for validation; `position` moves on to the next one."""
        images = position.update * self.recipe.batch_size * self.recipe.accumulate
        position.epoch += 1
        row = {
            "epoch": position.epoch,
            "lr": lr,
            "train_loss": position.loss_sum / position.update,
            "images_per_second": round(images / position.seconds, 1),
            "seconds": round(position.seconds, 3),
        }
        position.update, position.loss_sum, position.seconds = 0, 0.0, 0.0
        return row

    def _read(self, summary: Tensor | None, position: Position) -> bool:
        """Account for the loss of an update; whether some process was asked to stop."""
        if summary is None:
            return False
        loss, stops = summary.tolist()
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in epoch {position.epoch + 1}, update {position.update}: lower --lr (attention "
                f"layers have {self.recipe.attention_lr_scale:g} times it), or train without --amp"
            )
        position.loss_sum += loss
        return bool(stops > 0)

    def _update(self, batches: list[Batch], position: Position) -> Tensor:
        """One step of the optimizer over `accumulate` batches; their mean loss, () float32, on the device."""
        where = (position.epoch, position.update)
        total = torch.zeros((), device=self.world.device)
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            pixels, target = self._prepared(batch, (*where, number))
            torch.manual_seed(seed_for(self.recipe.seed, "network", *where, number, self.world.rank))
            autocast = torch.autocast(self.world.device.type, dtype=self._amp_dtype, enabled=self.recipe.amp)
            # Gradients cross processes once per update.
            alone = isinstance(self._forward, DistributedDataParallel) and number < len(batches) - 1
            with self._forward.no_sync() if alone else nullcontext():  # type: ignore[operator]
                with autocast, _update_errors():
                    loss = self._forward(pixels, target) / len(batches)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.clip_grad)
        with _update_errors():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        done = position.epoch * self.updates_per_epoch + position.update + 1
        self.scheduler.step_update(done)
        if self.ema is not None:
            self.ema.update(self.objective.model, step=done)
        return total

    def _prepared(self, batch: Batch, where: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Normalised pixels and targets on the device, erased and mixed as the recipe says."""
        device = self.world.device
        pixels = batch.pixels.to(device, non_blocking=True).float().sub_(self._mean).div_(self._std)
        pixels = pixels.to(memory_format=self._format)
        target = batch.labels.to(device, non_blocking=True)
        if self._mixup is not None or self._erase is not None:
            seed_augmentation(seed_for(self.recipe.seed, "mix", *where, self.world.rank))
        if self._erase is not None:
            pixels = self._erase(pixels)
        if self._mixup is not None:
            pixels, target = self._mixup(pixels, target)
        return pixels, target


@contextmanager
def _update_errors() -> Iterator[None]:
    """Within: what torch says of one value per channel and of numbers beyond float32 is said in our terms."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RecipeError(
            "a batch norm gets one value per channel, so there is nothing to norm: --batch-size 2 or more, or a larger "
            "--img-size"
        ) from error
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        raise DivergedError("a step of the optimizer is longer than float32 holds: lower --lr") from error
