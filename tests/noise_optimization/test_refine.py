"""Candidates, then iterations while they pay: how time is shared, and what the report says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from fovea.guidance.noise_optimization.refine import PATIENCE, Phase, Refinement, add
from fovea.guidance.noise_optimization.search import Best, Limits


def best(losses: Sequence[float], trials: int = 1) -> Best:
    values = torch.tensor(losses)
    filled = values[:, None].clone()
    return Best(values, filled, filled.clone(), filled.clone(), [list(losses)] * trials)


class Clocked:
    """Searches that take time: a candidate one second, an iteration two; candidates find `found` in turn, iterations
    gain while `gains` last."""

    def __init__(self, found: Sequence[float] = (0.5, 0.4), gains: Sequence[float] = (), candidates: int = 100) -> None:
        self.now, self.found, self.gains, self.candidates = 0.0, list(found), list(gains), candidates
        self.asked: list[tuple[str, float]] = []

    def clock(self) -> float:
        return self.now

    def draw(self, seconds: float, before: Best | None) -> Best:
        self.asked.append(("draw", seconds))
        trials = max(1, int(seconds)) if seconds else self.candidates
        self.now += trials
        found = best([self.found.pop(0)], trials)
        return found if before is None else add(before, found)

    def iterate(self, limits: Limits, before: Best | None) -> Best:
        self.asked.append(("iterate", limits.seconds))
        kept, began, idle = before or best([0.6], 0), self.now, 0
        for _ in range(limits.iterations):
            if (limits.seconds and self.now - began >= limits.seconds) or (limits.patience and idle >= limits.patience):
                break
            self.now += 2
            gain = self.gains.pop(0) if self.gains else 0.0
            idle = 0 if gain else idle + 1
            kept = add(kept, best([float(kept.losses) - gain])) if gain else add(kept, best([float(kept.losses)]))
        return kept

    def run(self, limits: Limits, share: float = 0.5, draws: bool = True, iterates: bool = True) -> tuple:
        refinement = Refinement(
            self.draw if draws else None, self.iterate if iterates else None, limits, share, self.clock
        )
        return refinement.run(), refinement.phases


class TestTime:
    def test_without_a_limit_all_is_done_in_turn(self) -> None:
        work = Clocked(gains=[0.1, 0.0, 0.1])
        found, phases = work.run(Limits(6))
        assert work.asked == [("draw", 0.0), ("iterate", 0.0)] and [phase.trials for phase in phases] == [100, 6]
        assert float(found.losses) == pytest.approx(0.3)

    def test_is_shared(self) -> None:
        work = Clocked(gains=[0.01] * 100)
        _, phases = work.run(Limits(1000, seconds=40), 0.25)
        assert work.asked == [("draw", 10.0), ("iterate", 30.0)] and work.now == 40
        assert [(phase.name, phase.trials) for phase in phases] == [("candidates", 10), ("iterations", 15)]

    def test_iterations_go_on_while_they_pay(self) -> None:
        """Three gain, then none: what is left of the time is for further candidates."""
        work = Clocked(found=[0.5, 0.1], gains=[0.01] * 3)
        found, phases = work.run(Limits(1000, seconds=100))
        spent = 50 + 2 * (3 + PATIENCE)
        assert work.asked == [("draw", 50.0), ("iterate", 50.0), ("draw", 100.0 - spent)]
        assert [phase.name for phase in phases] == ["candidates", "iterations", "further candidates"]
        assert float(found.losses) == pytest.approx(0.1) and work.now == 100

    def test_patience_that_is_given_is_kept(self) -> None:
        work = Clocked()
        work.run(Limits(1000, seconds=100, patience=7))
        assert work.now == 100 and work.asked[-1] == ("draw", 36.0)

    def test_a_share_of_zero_is_one_candidate(self) -> None:
        """Not any number of them, which a limit of 0 seconds is elsewhere."""
        work = Clocked(gains=[0.01] * 100)
        _, phases = work.run(Limits(1000, seconds=41), 0.0)
        assert [(phase.name, phase.trials) for phase in phases] == [("candidates", 1), ("iterations", 20)]
        assert 0 < work.asked[0][1] < 1e-6 and work.now == 41
        assert Clocked().run(Limits(3), 0.0)[1][0].trials == 100, "without a limit there is nothing to share"

    def test_candidates_that_take_all_of_it_leave_no_iterations(self) -> None:
        work = Clocked()
        _, phases = work.run(Limits(10, seconds=0.5))
        assert [phase.name for phase in phases] == ["candidates"]

    def test_alone_each_has_all_of_it(self) -> None:
        work = Clocked()
        work.run(Limits(10, seconds=20), iterates=False)
        assert work.asked == [("draw", 20.0)]
        work = Clocked()
        _, (phase,) = work.run(Limits(3), draws=False)
        assert work.asked == [("iterate", 0.0)] and phase.trials == 3

    def test_as_published_there_is_no_patience(self) -> None:
        """One candidate, DOODL's and SGOOL's: a limit of time stops, and nothing else does."""
        work = Clocked()
        work.run(Limits(10, seconds=100), draws=False)
        assert work.now == 20


def test_the_report_says_what_each_phase_gained() -> None:
    _, phases = Clocked(found=[0.5], gains=[0.1]).run(Limits(2))
    assert str(phases[1]) == "iterations: 2 in 4.0 s, mean loss from 0.5000 to 0.4000"
    assert str(Phase("candidates", 8, 1.26, math.nan, 0.25)) == "candidates: 8 in 1.3 s, mean loss to 0.2500"


def test_two_searches_together_have_the_better_of_each_place() -> None:
    first, second = best([0.5, 0.2], 2), best([0.1, 0.3])
    first.numbers, second.numbers = torch.tensor([1, 2]), torch.tensor([8, 9])
    second.dropped, second.notes = 3, ["x"]
    both = add(first, second)
    assert both.losses.tolist() == pytest.approx([0.1, 0.2]) and both.numbers.tolist() == [8, 2]
    assert torch.equal(both.start[:, 0], both.losses) and len(both.iterations) == 3
    assert both.dropped == 3 and both.notes == ["x"]
