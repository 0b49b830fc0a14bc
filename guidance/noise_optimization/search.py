"""The search for a better starting latent: evaluate, keep the best, move; for any loss and any rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from . import update_rules
from .update_rules import Rule, each

MIN_RATE = 1 / 64  # a latent whose steps keep failing is left alone below this


class Evaluation(NamedTuple):
    """A set of starting latents tried out: losses [n], gradient like the latents (None: not asked for), the sampled
    latents and the pictures [n, 3, height, width] in 0..1."""

    losses: Tensor
    gradient: Tensor | None
    sampled: Tensor
    pictures: Tensor


@dataclass
class Best:
    """The best of what was tried, each latent by itself, and the losses of all iterations [iterations][n].

    numbers [n]: which candidate each is, where there were several. dropped: how many were not finite. notes: for
    people. canceled: whether there was to be more.
    """

    losses: Tensor
    start: Tensor
    sampled: Tensor
    pictures: Tensor
    iterations: list[list[float]] = field(default_factory=list)
    rejected: int = 0
    stopped: str = ""
    numbers: Tensor | None = None
    dropped: int = 0
    notes: list[str] = field(default_factory=list)
    canceled: bool = False

    def consider(self, start: Tensor, evaluated: Evaluation) -> Tensor:
        """Take over what is better; returns for which latents."""
        better = torch.isfinite(evaluated.losses) & (evaluated.losses < self.losses)
        for kept, new in ((self.losses, evaluated.losses), (self.start, start), (self.sampled, evaluated.sampled),
                          (self.pictures, evaluated.pictures)):  # fmt: skip
            at = better.to(kept.device)
            kept[at] = new[at.to(new.device)].to(kept)
        return better


@dataclass(frozen=True)
class Limits:
    """When to stop: iterations; seconds (0: any); patience, iterations without a better loss (0: any)."""

    iterations: int
    seconds: float = 0.0
    patience: int = 0


def search(
    start: Tensor,
    evaluate: Callable[[Tensor, bool], Evaluation],
    rule: Rule,
    limits: Limits,
    generators: list[torch.Generator],
    watch: Callable[[int, Best], None] = lambda _iteration, _best: None,
    best: Best | None = None,
) -> Best:
    """Move the starting latents [n, ...] (unit noise) to where their losses are lower.

    evaluate: (latents, whether the gradient is wanted). generators: one per latent, for the rule's noise. watch: told
    after every evaluation. best: what was found before, which is added to. A latent whose loss or gradient is not
    finite goes back to its best and on with half the step. Raises ValueError if nothing finite was found at all.
    """
    began, z = time.monotonic(), start
    motion, rate = update_rules.at_rest(start), torch.ones(len(start), device=start.device)
    idle = 0
    for iteration in range(limits.iterations + 1):
        last = iteration == limits.iterations
        evaluated = evaluate(z, not last)
        if best is None:
            best = nothing_yet(start, evaluated)
        again = iteration == 0 and bool(best.iterations)  # what was found before is evaluated once more
        idle = 0 if best.consider(z, evaluated).any() or again else idle + 1
        best.iterations.append(evaluated.losses.tolist())
        watch(iteration, best)
        if last or evaluated.gradient is None:
            break
        if limits.seconds and time.monotonic() - began >= limits.seconds:
            best.stopped = f"time is up after {iteration} iterations"
            break
        if limits.patience and idle >= limits.patience:
            best.stopped = f"nothing better in {idle} iterations"
            break
        finite = torch.isfinite(evaluated.losses) & torch.isfinite(evaluated.gradient.flatten(1)).all(dim=1)
        if not finite.all():
            best.rejected += int((~finite).sum())
            z, motion, rate = _back(z, best, motion, rate, finite)
            evaluated = evaluated._replace(
                gradient=torch.where(each(finite, z), evaluated.gradient, torch.zeros_like(z))
            )
            if (rate < MIN_RATE).all():
                best.stopped = "losses or gradients stayed NaN"
                break
        assert evaluated.gradient is not None
        z, motion = rule.update(z, evaluated.gradient, motion, update_rules.unit_noise(z, generators), rate)
    assert best is not None
    if not torch.isfinite(best.losses).any():
        raise ValueError(why_nothing(best))
    return best


def best_of(
    candidates: Iterable[Tensor],
    evaluate: Callable[[Tensor, bool], Evaluation],
    seconds: float = 0.0,
    watch: Callable[[int, Best], None] = lambda _iteration, _best: None,
) -> Best:
    """Try fresh starting latents and keep the best of each place: the search without gradients to compare with.

    Raises ValueError if nothing finite was found.
    """
    began, best = time.monotonic(), None
    for number, z in enumerate(candidates):
        if best is not None and seconds and time.monotonic() - began >= seconds:
            best.stopped = f"time is up after {number} candidates"
            break
        evaluated = evaluate(z, False)
        if best is None:
            best = nothing_yet(z, evaluated)
        best.consider(z, evaluated)
        best.iterations.append(evaluated.losses.tolist())
        watch(number, best)
    if best is None or not torch.isfinite(best.losses).any():
        raise ValueError(why_nothing(best))
    return best


def why_nothing(best: Best | None) -> str:
    """What to do where no loss is finite: from the first trial, whose latents and pictures are kept."""
    said = "No starting latent gave a finite loss"
    if best is None:
        return f"{said}."
    if not torch.isfinite(best.sampled).all():
        return f"{said}: the model's latents hold NaN or infinity. Try --force-upcast-attention, or another model file."
    if not torch.isfinite(best.pictures).all():
        return (
            f"{said}: the latents are fine, but the decoded pictures hold NaN or infinity. The VAE overflows in half "
            "precision: start ComfyUI with --fp32-vae, or take a VAE made for half precision."
        )
    return f"{said}: the scorer's are NaN or infinity."


def nothing_yet(z: Tensor, evaluated: Evaluation) -> Best:
    """What is kept before anything was found: places for it."""
    lost = torch.full_like(evaluated.losses, float("inf"))
    return Best(lost, z.clone(), evaluated.sampled.clone(), evaluated.pictures.clone())


def _back(
    z: Tensor, best: Best, motion: update_rules.Motion, rate: Tensor, finite: Tensor
) -> tuple[Tensor, update_rules.Motion, Tensor]:
    """Latents that failed at their best place, at rest, with half the step."""
    velocity = torch.where(each(finite, z), motion.velocity, torch.zeros_like(z))
    z = torch.where(each(finite, z), z, best.start)
    return z, motion._replace(velocity=velocity), torch.where(finite, rate, rate / 2)
