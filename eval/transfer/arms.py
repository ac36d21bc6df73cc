"""The arms of the experiment: which network starts from the plain weights, and how."""

from __future__ import annotations

from dataclasses import dataclass, replace

from timm_gam.train import GateInit

ATTENTIONS = ("se", "cbam", "gam")


@dataclass(frozen=True)
class Arm:
    """One network with one start, tuned and trained like every other.

    Attributes:
        name: As records and tables call it, such as "gam-identity".
        model: Registered timm model.
        backbone: The plain model that it starts from; itself pretrained on the other half of the classes.
        gate_init: "identity" or "paper" (the gates' usual random start; names say "usual").
        attention_lr_scale: Learning rate of the attention layers over that of the others.
    """

    name: str
    model: str
    backbone: str
    gate_init: GateInit = "paper"
    attention_lr_scale: float = 10.0


def arm_groups(family: str, *, controls: bool) -> list[list[Arm]]:
    """The arms: plain, and each attention with identity and with usual gates, at the paper's 10 times the rate.

    With controls two groups more: a plain network of GAM's size, pretrained and trained alike, and each gated arm with
    its attention at the common learning rate.
    """
    starts: tuple[tuple[str, GateInit], ...] = (("identity", "identity"), ("usual", "paper"))
    gated = [
        Arm(f"{kind}-{start}", f"{family}_{kind}", family, gate_init)
        for kind in ATTENTIONS
        for start, gate_init in starts
    ]
    arms, wide = [Arm("plain", family, family), *gated], f"{family}_wide"
    rates = [replace(arm, name=f"{arm.name}-lr1", attention_lr_scale=1.0) for arm in gated]
    return [arms, [Arm("wide", wide, wide)], rates] if controls else [arms]
