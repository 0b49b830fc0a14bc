"""Candidates in legs: some steps for all of them in batches, a look at their estimated pictures, and who goes on.

Each picture of a batch has candidates of its own: all tensors are [candidates, places, ...].
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .memory import out_of_memory
from .search import Best, Evaluation, nothing_yet, why_nothing

FIRST_CUT = 0.35  # of the steps
CPU = torch.device("cpu")


class Leg(NamedTuple):
    """So many candidates go from one step to another."""

    candidates: int
    start: int
    end: int


def cuts(steps: int, rounds: int, first: float = FIRST_CUT) -> tuple[int, ...]:
    """After how many steps candidates are scored: at `first` of them, evenly from there on, and at the end.

    rounds: how often half is dropped; 0 never. Fewer where there are too few steps.
    """
    places = [steps * (first + (1 - first) * i / rounds) for i in range(rounds)]
    return (*sorted({max(1, round(place)) for place in places} - set(range(steps, steps + 2))), steps)


def steps_taken(legs: Sequence[Leg], resumes: bool = True) -> int:
    """How many steps all candidates take together. resumes: whether they go on from where they are, or begin anew."""
    return sum(leg.candidates * (leg.end - (leg.start if resumes else 0)) for leg in legs)


@dataclass(frozen=True)
class Candidates:
    """Starting noises in a search, [n, places, ...]. numbers [n, places]: which of all candidates each is. noise: unit
    noise as it was drawn; begun: with what the model's nodes make of it. x: where they are now. losses [n, places]: of
    their last picture."""

    numbers: Tensor
    noise: Tensor
    begun: Tensor
    x: Tensor
    losses: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def each(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """All tensors changed; what is one tensor under two names stays one."""
        noise = change(self.noise)
        begun = noise if self.begun is self.noise else change(self.begun)
        x = begun if self.x is self.begun else change(self.x)
        return Candidates(change(self.numbers), noise, begun, x, change(self.losses))

    def best(self, count: int) -> Candidates:
        """The best of every place, in the order in which they were drawn. What is not finite comes last."""
        losses = torch.where(torch.isfinite(self.losses), self.losses, math.inf)
        order = losses.argsort(dim=0, stable=True)[:count].sort(dim=0).values
        return self.each(lambda values: values[order, torch.arange(order.shape[1])])

    def split(self, size: int) -> list[Candidates]:
        return [self.each(lambda values, at=at: values[at : at + size]) for at in range(0, len(self), size)]  # type: ignore[misc]

    @staticmethod
    def drawn(first: int, noises: Sequence[tuple[Tensor, Tensor]]) -> Candidates:
        """Fresh ones. first: the number of the first. noises: each as drawn [places, ...], and as it begins."""
        places = len(noises[0][0])
        numbers = torch.arange(first, first + len(noises))[:, None].expand(-1, places)
        noise = torch.stack([drawn for drawn, _ in noises]).to(CPU)
        same = all(drawn is begun for drawn, begun in noises)
        begun = noise if same else torch.stack([begun for _, begun in noises]).to(CPU)
        return Candidates(numbers, noise, begun, begun, torch.full(numbers.shape, math.inf))

    @staticmethod
    def joined(parts: Sequence[Candidates]) -> Candidates:
        noise = torch.cat([part.noise for part in parts])
        begun = noise if all(p.begun is p.noise for p in parts) else torch.cat([part.begun for part in parts])
        x = torch.cat([part.x for part in parts])
        return Candidates(
            torch.cat([part.numbers for part in parts]), noise, begun, x, torch.cat([part.losses for part in parts])
        )


class Work(Protocol):
    """What a search does with a model."""

    def advance(self, candidates: Candidates, start: int, end: int) -> tuple[Tensor, Tensor]:
        """From one step to another in one batch: latents there, and the last estimate of the clean ones. Those that
        begin at step 0 begin with their noise."""
        ...

    def estimate(self, clean: Tensor) -> Tensor:
        """Losses [n, places] of estimated clean latents [n, places, ...]."""
        ...

    def finish(self, latents: Tensor) -> Evaluation:
        """Finished latents [places, ...] of one candidate: losses, and the pictures to keep."""
        ...


@dataclass(eq=False)
class LegSearch(ABC):
    """A search, which runs once. at: after which steps candidates are scored. batch: how many are sampled at once.
    seconds: 0 is any. resumes: whether candidates go on from where they are, or are sampled again from their noise.
    watch: told after every finished candidate. clock: in seconds. first_number: of the first candidate.

    step, look: seconds that a step of one candidate and its scoring take, as measured last. known: the last losses of
    all that were drawn, [drawn][places].
    """

    work: Work
    candidates: int
    at: tuple[int, ...]
    batch: int = 1
    seconds: float = 0.0
    resumes: bool = True
    watch: Callable[[int, Best], None] = lambda _number, _best: None
    clock: Callable[[], float] = time.monotonic
    first_number: int = 0
    step: float = field(default=0.0, init=False)
    look: float = field(default=0.0, init=False)
    began: float = field(default=0.0, init=False)
    finished: int = field(default=0, init=False)
    dropped: int = field(default=0, init=False)
    stopped: str = field(default="", init=False)
    best: Best | None = field(default=None, init=False)
    known: list[list[float]] = field(default_factory=list, init=False)

    @abstractmethod
    def planned(self, candidates: int, at: Sequence[int], start: int = 0) -> tuple[Leg, ...]:
        """Who goes how far from a step. at: the cuts after it."""

    @abstractmethod
    def chosen(self, alive: Candidates, at: Sequence[int], start: int) -> tuple[Candidates, Leg]:
        """Who goes on from a step, and how far. at: the cuts after it."""

    @abstractmethod
    def told(self, legs: Sequence[Leg]) -> list[str]:
        """What to say of the legs that were done."""

    def run(self, noises: Iterable[tuple[Tensor, Tensor]]) -> Best:
        """The best of every place. noises: as drawn and as they begin, at least as many as candidates.

        At least one candidate is finished, however little time there is. Raises ValueError if nothing finite was found,
        the device's error if memory does not suffice for one candidate.
        """
        wanted_batch, self.began = self.batch, self.clock()
        try:
            alive, leg = self.first(iter(noises), self.planned(self.candidates, self.at)[0])
            legs = [leg]
            while leg.end < self.at[-1]:
                alive, leg = self.chosen(alive, [cut for cut in self.at if cut > leg.end], leg.end)
                alive, legs = self.leg(alive, leg), [*legs, leg]
        finally:  # a cancel leaves what was finished
            if self.best is not None:
                self.best.iterations, self.best.dropped = self.known, self.dropped
        if self.best is None or not torch.isfinite(self.best.losses).any():
            raise ValueError(why_nothing(self.best))
        self.best.stopped = self.stopped
        self.best.notes += self.told(legs)
        if self.batch < wanted_batch:
            self.best.notes.append(f"memory sufficed for {self.batch} at once, not for {wanted_batch}")
        return self.best

    def first(self, noises: Iterator[tuple[Tensor, Tensor]], leg: Leg) -> tuple[Candidates, Leg]:
        """Draw candidates and take them through the first leg, as many as there is time for."""
        parts: list[Candidates] = []
        drawn = 0
        while drawn < leg.candidates:
            size = min(self.batch, leg.candidates - drawn)
            if self.seconds:
                size = self.in_time(drawn, size) if drawn else 1  # which tells how long one takes
            if not size:
                self.stopped = f"time is up after {drawn} candidates"
                break
            parts.append(self.leg(Candidates.drawn(self.first_number + drawn, list(islice(noises, size))), leg))
            drawn += size
        return Candidates.joined(parts), leg._replace(candidates=drawn)

    def leg(self, alive: Candidates, leg: Leg) -> Candidates:
        """All of these to the leg's end, in batches that memory suffices for."""
        start, last = leg.start if self.resumes else 0, leg.end == self.at[-1]
        waiting, done = [alive], []
        while waiting:
            part, *waiting = [*waiting[0].split(self.batch), *waiting[1:]]
            began = self.clock()
            try:
                x, clean = self.work.advance(part, start, leg.end)
            except RuntimeError as error:
                if len(part) == 1 or not out_of_memory(error):
                    raise
                self.batch = len(part) // 2
                waiting = [part, *waiting]
                continue
            moved = self.clock()
            losses = self.finish(part, x) if last else self.work.estimate(clean)
            self.step = (moved - began) / (len(part) * (leg.end - start))
            self.look = (self.clock() - moved) / len(part)
            done.append(replace(part, x=x.to(CPU), losses=losses.to(CPU)))
            self.note(done[-1])
        return Candidates.joined(done)

    def finish(self, part: Candidates, x: Tensor) -> Tensor:
        """Losses of finished candidates, the best of which are kept."""
        losses = []
        for numbers, noise, latents in zip(part.numbers, part.noise, x):
            evaluated = self.work.finish(latents)
            if self.best is None:
                self.best = nothing_yet(noise.to(x), evaluated)
                self.best.numbers = numbers.clone()
            better = self.best.consider(noise.to(x), evaluated).to(CPU)
            assert self.best.numbers is not None
            self.best.numbers[better] = numbers[better]
            self.best.iterations = [*self.best.iterations, evaluated.losses.tolist()]
            self.watch(self.finished, self.best)
            self.finished += 1
            losses.append(evaluated.losses)
        return torch.stack(losses)

    def note(self, part: Candidates) -> None:
        """Remember the losses, and count what is not finite."""
        for numbers, losses in zip(part.numbers.tolist(), part.losses.tolist()):
            for place, (number, loss) in enumerate(zip(numbers, losses)):
                at = number - self.first_number
                while len(self.known) <= at:
                    self.known.append([math.nan] * len(numbers))
                self.dropped += not math.isfinite(loss) and not math.isinf(self.known[at][place])
                self.known[at][place] = loss if math.isfinite(loss) else math.inf

    def in_time(self, drawn: int, more: int) -> int:
        """How many more candidates, at most, could be drawn and all seen to their end."""
        while more:
            first, *later = self.planned(drawn + more, self.at)
            if self.left() >= self.cost([first._replace(candidates=more), *later]):
                break
            more //= 2
        return more

    def affordable(self, keep: int, at: Sequence[int], start: int) -> int:
        """How many of so many there is time for; one at least."""
        while self.seconds and keep > 1 and self.left() < self.cost(self.planned(keep, at, start)):
            keep -= 1
            self.stopped = self.stopped or "time was short for all that were left"
        return keep

    def left(self) -> float:
        return self.seconds - (self.clock() - self.began)

    def cost(self, legs: Sequence[Leg]) -> float:
        """Seconds."""
        steps = steps_taken(legs, self.resumes)
        return self.step * steps + self.look * sum(leg.candidates for leg in legs)
