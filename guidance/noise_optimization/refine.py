"""Candidates first, then changes of the best of them while these pay; time shared between the two."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from torch import Tensor

from .search import Best, Evaluation, Limits

NO_TIME = 1e-9  # seconds in which one candidate is drawn and no more; 0 would be any
PATIENCE = 4  # iterations without a better picture, after which time is worth more for further candidates


class Phase(NamedTuple):
    """What a part of a search did: how many trials, in how many seconds, and the mean loss of the pictures before and
    after. before: NaN where nothing was known."""

    name: str
    trials: int
    seconds: float
    before: float
    after: float

    def __str__(self) -> str:
        known = "" if math.isnan(self.before) else f"from {self.before:.4f} "
        return f"{self.name}: {self.trials} in {self.seconds:.1f} s, mean loss {known}to {self.after:.4f}"


@dataclass
class Refinement:
    """draw: tries candidates for so many seconds (0: all), beside what was found before; None is none. iterate: changes
    the best within limits, or the first noise; None is none. limits: of all together. share: of the seconds that
    candidates get. phases: what was done."""

    draw: Callable[[float, Best | None], Best] | None
    iterate: Callable[[Limits, Best | None], Best] | None
    limits: Limits
    share: float = 0.5
    clock: Callable[[], float] = time.monotonic
    phases: list[Phase] = field(default_factory=list)

    def run(self) -> Best:
        """Without a limit: all candidates, then all iterations. With one: candidates get their share, iterations
        go on while they pay, and what is left is for further candidates."""
        limits, began = self.limits, self.clock()
        best, draw = None, self.draw
        if draw is not None:
            share = 1 if self.iterate is None else self.share
            seconds = max(limits.seconds * share, NO_TIME) if limits.seconds else 0.0
            best = self.done("candidates", None, partial(draw, seconds, None))
        if self.iterate is None:
            assert best is not None
            return best
        iterate = self.iterate
        if limits.seconds and best is not None:
            left = limits.seconds - (self.clock() - began)
            if left <= 0:
                return best
            limits = replace(limits, seconds=left, patience=limits.patience or PATIENCE)
        best = self.done("iterations", best, partial(iterate, limits, best))
        if limits.seconds and draw is not None:
            left = self.limits.seconds - (self.clock() - began)
            first = self.phases[0]
            if left > 2 * first.seconds / max(1, first.trials):  # one that goes to its end takes more than the mean
                best = self.done("further candidates", best, partial(draw, left, best))
        return best

    def done(self, name: str, before: Best | None, work: Callable[[], Best]) -> Best:
        """A phase, noted."""
        began, tried = self.clock(), 0 if before is None else len(before.iterations)
        known = math.nan if before is None else mean(before.losses)
        best = work()
        first = sum(best.iterations[0]) / len(best.iterations[0])
        known = first if math.isnan(known) and len(best.iterations) > 1 else known
        self.phases.append(Phase(name, len(best.iterations) - tried, self.clock() - began, known, mean(best.losses)))
        return best


def mean(losses: Tensor) -> float:
    return float(losses.double().mean())


def add(best: Best, more: Best) -> Best:
    """What two searches found, the better of each place."""
    better = best.consider(more.start, Evaluation(more.losses, None, more.sampled, more.pictures))
    if best.numbers is not None and more.numbers is not None:
        at = better.to(best.numbers.device)
        best.numbers[at] = more.numbers[at]
    best.iterations += more.iterations
    best.dropped, best.notes = best.dropped + more.dropped, best.notes + more.notes
    best.stopped = more.stopped or best.stopped
    return best
