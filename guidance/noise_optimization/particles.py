"""Particles (Feynman-Kac steering, arXiv 2501.06848): what improves multiplies, in place of what does not.

Under a sampler that draws noise, copies of one latent become different pictures. At every cut a particle's weight is
multiplied with exp(lambda (r - r_before)), r the score of its estimated picture. Where the weights have become so
uneven that they count for less than half of the particles, as many are drawn anew by their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .candidate_legs import Candidates, Leg, LegSearch

STRENGTH = 2.0
MIN_SPREAD = 1e-12  # of scores: less is rounding, and tells nobody apart


def effective_size(log_weights: Tensor) -> Tensor:
    """How many equal ones weights [n, places] count for, [places]: 1 / sum of squares of the normalized ones."""
    return 1 / torch.softmax(log_weights, dim=0).square().sum(dim=0)


def spread(losses: Tensor) -> Tensor:
    """Standard deviation of the finite losses [n, places] of each place, [places]; 0 where all are alike."""
    finite = torch.isfinite(losses)
    count = finite.sum(dim=0).clamp_min(1)
    mean = losses.where(finite, 0.0).sum(dim=0) / count
    size = ((losses - mean).where(finite, 0.0).square().sum(dim=0) / count).sqrt()
    return size.where(size > MIN_SPREAD, 0.0)


def draw_ancestors(log_weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Whom each of n particles goes on from, [n, places]: drawn with the weights [n, places], in order."""
    weights = torch.softmax(log_weights, dim=0)
    columns = [torch.multinomial(weights[:, place], len(weights), replacement=True, generator=generator)
               for place, generator in enumerate(generators)]  # fmt: skip
    return torch.stack(columns, dim=1).sort(dim=0).values


@dataclass(eq=False)
class Particles(LegSearch):
    """strength: lambda in units of 1 / the spread of the first scores, so that it means the same for every scorer.
    generators: one per place, for the drawing. unit [places]: that spread, 0 while it is not known. scored: the last
    losses that were finite; log_weights: what has been gathered since the last drawing. resampled: where, for the
    report."""

    strength: float = STRENGTH
    generators: Sequence[torch.Generator] = ()
    unit: Tensor | None = field(default=None, init=False)
    scored: Tensor | None = field(default=None, init=False)
    log_weights: Tensor | None = field(default=None, init=False)
    resampled: list[str] = field(default_factory=list, init=False)

    def planned(self, candidates: int, at: Sequence[int], start: int = 0) -> tuple[Leg, ...]:
        """All to the end. One alone at once."""
        if candidates == 1:
            return (Leg(1, start, at[-1]),)
        return tuple(Leg(candidates, before, end) for before, end in zip((start, *at), at))

    def chosen(self, alive: Candidates, at: Sequence[int], start: int) -> tuple[Candidates, Leg]:
        """As many as there were; of places whose weights have become uneven, drawn by them."""
        losses = alive.losses.double()
        finite = torch.isfinite(losses)
        if self.unit is None or self.log_weights is None or self.scored is None:
            self.unit = torch.zeros_like(losses[0])
            self.log_weights, self.scored = torch.zeros_like(losses), torch.zeros_like(losses)
        self.unit = torch.where(self.unit > 0, self.unit, spread(losses))
        told = finite & (self.unit > 0)
        gain = self.strength * (self.scored - losses) / self.unit
        self.log_weights = self.log_weights + gain.where(told, 0.0)
        self.scored = losses.where(told, self.scored)
        weights = self.log_weights.where(finite, -torch.inf)  # in this look alone
        weights = weights.where(finite.any(dim=0), 0.0)  # nothing finite: nobody is better
        sizes = effective_size(weights)
        uneven = sizes < len(alive) / 2
        if uneven.any():
            order = torch.arange(len(alive))[:, None].expand_as(losses)
            order = torch.where(uneven, draw_ancestors(weights, self.generators), order)
            self.log_weights = torch.where(uneven, 0.0, self.log_weights)
            self.scored = self.scored[order, torch.arange(order.shape[1])]
            self.resampled.append(f"step {start} ({float(sizes.min()):.1f} of {len(alive)} counted)")
            alive = resampled(alive, order)
        return alive, self.planned(len(alive), at, start)[0]

    def told(self, legs: Sequence[Leg]) -> list[str]:
        """Where particles were drawn anew."""
        if not self.resampled:
            return ["no particles were drawn anew"] if len(legs) > 1 else []
        return [
            f"particles were drawn anew at {', '.join(self.resampled)}: a sampler does not draw their pictures again "
            "from noise"
        ]


def resampled(alive: Candidates, order: Tensor) -> Candidates:
    """Particles that go on from others, order [n, places], each with numbers of its own, hence with its own noise."""
    places = torch.arange(order.shape[1])
    return replace(alive.each(lambda values: values[order, places]), numbers=alive.numbers)
