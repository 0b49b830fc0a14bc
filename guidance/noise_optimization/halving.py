"""Successive halving: all candidates for a part of the steps, the better half of them further, the best to the end.

What a candidate will be shows before its last step: its estimated picture is scored after each leg, and the worse half
is dropped. The estimate after k steps is the one that the last of them made, so it is of the noise level at step k - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .candidate_legs import Candidates, Leg, LegSearch


def plan_legs(candidates: int, at: Sequence[int], start: int = 0) -> tuple[Leg, ...]:
    """Who goes how far from a step. at: the cuts after it. A candidate that is alone goes to the end at once."""
    legs: list[Leg] = []
    for end in at:
        if candidates == 1:
            return (*legs, Leg(1, start, at[-1]))
        legs.append(Leg(candidates, start, end))
        start, candidates = end, -(-candidates // 2)
    return tuple(legs)


class Halving(LegSearch):
    """The worse half is dropped after every leg, and what is not finite."""

    def planned(self, candidates: int, at: Sequence[int], start: int = 0) -> tuple[Leg, ...]:
        """As `plan_legs`."""
        return plan_legs(candidates, at, start)

    def chosen(self, alive: Candidates, at: Sequence[int], start: int) -> tuple[Candidates, Leg]:
        """The better half of every place, or as many as there is time for; one at least."""
        finite = int(torch.isfinite(alive.losses).sum(dim=0).max())
        keep = self.affordable(max(1, min(-(-len(alive) // 2), finite)), at, start)
        return alive.best(keep), plan_legs(keep, at, start)[0]

    def told(self, legs: Sequence[Leg]) -> list[str]:
        """Who went how far."""
        (first, *later), last = legs, self.at[-1]
        went = [f"{leg.candidates} to step {leg.end}" if leg.end < last else f"{leg.candidates} to the end"
                for leg in later]  # fmt: skip
        return [", ".join([f"{first.candidates} candidates to step {first.end} of {last}", *went])] if went else []
