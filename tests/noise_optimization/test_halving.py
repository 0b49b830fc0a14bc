"""Successive halving on numbers instead of pictures: who goes on, what it costs, time, memory, what is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.guidance.noise_optimization.candidate_legs import Candidates, Leg, cuts, steps_taken
from fovea.guidance.noise_optimization.halving import Halving, plan_legs
from fovea.guidance.noise_optimization.search import Best, Evaluation

PLACES = 2


@dataclass
class Numbers:
    """Work on candidates whose latents count their steps: [steps done, fate]. A candidate's loss is its fate, off by
    `blur` for each step that is missing. memory: how many at once. Time passes by the second: a step, a look."""

    steps: int
    blur: float = 0.0
    memory: int = 1000
    step: float = 1.0
    look: float = 0.0
    now: float = 0.0
    advanced: list[tuple[int, int, int]] = field(default_factory=list)
    cancel_after: int = 1000
    full: RuntimeError = field(default_factory=lambda: torch.OutOfMemoryError("full"))

    def advance(self, candidates: Candidates, start: int, end: int) -> tuple[Tensor, Tensor]:
        if len(candidates) > self.memory:
            raise self.full
        if len(self.advanced) >= self.cancel_after:
            raise KeyboardInterrupt
        self.advanced.append((len(candidates), start, end))
        self.now += self.step * len(candidates) * (end - start)
        x = (candidates.begun if start == 0 else candidates.x).clone()
        assert start == 0 or (x[..., 0] == start).all(), "it goes on where it was"
        x[..., 0] = end
        return x, x

    def estimate(self, clean: Tensor) -> Tensor:
        self.now += self.look * len(clean)
        noise = torch.sin(1000 * clean[..., 1])
        return clean[..., 1] + self.blur * (self.steps - clean[..., 0]) * noise

    def finish(self, latents: Tensor) -> Evaluation:
        assert (latents[..., 0] == self.steps).all()
        pictures = latents[:, :1, None, None].expand(-1, 3, 1, 1)
        return Evaluation(self.estimate(latents[None])[0], None, latents, pictures)

    def clock(self) -> float:
        return self.now


def drawn(count: int, seed: int = 0) -> list[Tensor]:
    """Each [places, 2]."""
    fates = torch.rand(count, PLACES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [torch.stack([torch.zeros(PLACES, dtype=torch.float64), row], dim=1) for row in fates]


def search(work: Numbers, noises: list[Tensor], rounds: int = 2, **settings: object) -> Best:
    halving = Halving(work, len(noises), cuts(work.steps, rounds), clock=work.clock, **settings)  # type: ignore[arg-type]
    return halving.run((noise, noise) for noise in noises)


class TestPlan:
    def test_where_candidates_are_scored(self) -> None:
        assert cuts(20, 0) == (20,) and cuts(20, 1) == (7, 20) and cuts(20, 2) == (7, 14, 20)
        assert cuts(1, 3) == (1,) and cuts(2, 5) == (1, 2) and cuts(10, 1, 0.5) == (5, 10)

    def test_half_goes_on(self) -> None:
        assert plan_legs(8, (7, 14, 20)) == (Leg(8, 0, 7), Leg(4, 7, 14), Leg(2, 14, 20))
        assert plan_legs(5, (7, 20)) == (Leg(5, 0, 7), Leg(3, 7, 20))
        assert plan_legs(2, (3, 6, 9)) == (Leg(2, 0, 3), Leg(1, 3, 9)), "one alone is not scored on its way"
        assert plan_legs(1, (3, 6, 9)) == (Leg(1, 0, 9),)

    def test_what_it_costs(self) -> None:
        legs = plan_legs(8, (7, 14, 20))
        assert steps_taken(legs) == 8 * 7 + 4 * 7 + 2 * 6
        assert steps_taken(legs, resumes=False) == 8 * 7 + 4 * 14 + 2 * 20

    @settings(max_examples=60)
    @given(steps=st.integers(1, 60), rounds=st.integers(0, 9), first=st.floats(0.05, 0.95), n=st.integers(1, 99))
    def test_every_plan_leads_to_the_end(self, steps: int, rounds: int, first: float, n: int) -> None:
        at = cuts(steps, rounds, first)
        assert list(at) == sorted(set(at)) and at[-1] == steps and at[0] >= 1 and len(at) <= rounds + 1
        legs = plan_legs(n, at)
        assert legs[0].start == 0 and legs[-1].end == steps and all(a.end == b.start for a, b in zip(legs, legs[1:]))
        assert all(math.ceil(a.candidates / 2) == b.candidates for a, b in zip(legs, legs[1:]))


def slow(noises: list[Tensor], work: Numbers, at: tuple[int, ...], place: int) -> tuple[float, int]:
    """The definition, one place, one candidate after the other: the best loss, and whose."""
    alive = list(range(len(noises)))
    for cut in at:
        losses = {}
        for number in alive:
            fate = float(noises[number][place, 1])
            losses[number] = fate + work.blur * (work.steps - cut) * math.sin(1000 * fate)
        alive = sorted(alive, key=lambda number: losses[number])
        if cut < at[-1]:
            alive = alive[: math.ceil(len(alive) / 2)] if len(alive) > 1 else alive
    return losses[alive[0]], alive[0]


class TestSearch:
    @settings(max_examples=60)
    @given(n=st.integers(1, 17), rounds=st.integers(0, 5), batch=st.integers(1, 6), blur=st.floats(0, 0.2),
           resumes=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
    def test_the_slow_one(self, n: int, rounds: int, batch: int, blur: float, resumes: bool, seed: int) -> None:
        work, noises = Numbers(9, blur), drawn(n, seed)
        best = search(work, noises, rounds, batch=batch, resumes=resumes)
        for place in range(PLACES):
            loss, number = slow(noises, work, cuts(9, rounds), place)
            assert float(best.losses[place]) == pytest.approx(loss)
            assert best.numbers is not None and int(best.numbers[place]) == number
            assert torch.equal(best.start[place], noises[number][place])
            assert float(best.sampled[place, 0]) == 9
        assert sum(count * (end - start) for count, start, end in work.advanced) == steps_taken(
            plan_legs(n, cuts(9, rounds)), resumes
        )
        assert all(count <= batch for count, *_ in work.advanced)
        assert len(best.iterations) == n and all(math.isfinite(v) for row in best.iterations for v in row)

    def test_none_is_dropped_at_zero_rounds(self) -> None:
        """Twin: a score that misleads at first loses the best one, which the whole way would have found."""
        noises = drawn(16)
        whole, pruned = (search(Numbers(9, blur=0.5), noises, rounds) for rounds in (0, 3))
        assert torch.equal(whole.losses, torch.stack(noises)[..., 1].amin(dim=0))
        assert (pruned.losses > whole.losses).any()

    def test_the_report_says_who_went_how_far(self) -> None:
        assert search(Numbers(20), drawn(8)).notes == ["8 candidates to step 7 of 20, 4 to step 14, 2 to the end"]
        assert search(Numbers(20), drawn(8), 0).notes == [] and search(Numbers(20), drawn(1)).notes == []


class TestTime:
    @settings(max_examples=60)
    @given(seconds=st.floats(0.1, 300), look=st.floats(0, 5), batch=st.integers(1, 5), rounds=st.integers(0, 3),
           resumes=st.booleans())  # fmt: skip
    def test_is_kept(self, seconds: float, look: float, batch: int, rounds: int, resumes: bool) -> None:
        work = Numbers(9, look=look)
        best = search(work, drawn(20), rounds, seconds=seconds, batch=batch, resumes=resumes)
        assert torch.isfinite(best.losses).all()
        at = cuts(9, rounds)
        least = at[0] + look + (9 - (at[0] if resumes else 0) + look if rounds else 0)
        assert work.now <= max(seconds, least) + 1e-6
        assert bool(best.stopped) == (len(best.iterations) < 20)

    def test_less_than_one_picture_gives_one(self) -> None:
        work = Numbers(9)
        best = search(work, drawn(20), seconds=1e-9, batch=4)
        assert len(best.iterations) == 1 and best.stopped == "time is up after 1 candidates" and work.now == 9

    def test_is_used(self) -> None:
        """Twin of the limit: nearly all of it."""
        work = Numbers(10)
        best = search(work, drawn(1000), 1, seconds=300)
        assert work.now > 290 and len(best.iterations) == pytest.approx(300 / (4 + 3), abs=2)

    def test_that_gets_short_later_leaves_fewer(self) -> None:
        class Slower(Numbers):
            def advance(self, candidates: Candidates, start: int, end: int) -> tuple[Tensor, Tensor]:
                self.step = 1.0 if start == 0 else 4.0
                return super().advance(candidates, start, end)

        work = Slower(10)
        best = search(work, drawn(16), rounds=2, seconds=16 * 4 + 8 * 3 + 4 * 3 + 1)
        assert "time was short" in best.stopped and torch.isfinite(best.losses).all()


class TestFaults:
    def test_candidates_that_are_not_finite_are_dropped_and_counted(self) -> None:
        noises = drawn(8)
        for number in (0, 3, 4, 5, 6):
            noises[number][0, 1] = math.nan
        best = search(Numbers(9), noises)
        assert best.dropped == 5
        assert float(best.losses[0]) == min(float(noises[n][0, 1]) for n in (1, 2, 7))
        assert float(best.losses[1]) == min(float(noise[1, 1]) for noise in noises)

    def test_nothing_finite(self) -> None:
        noises = drawn(8)
        for noise in noises:
            noise[:, 1] = math.nan
        with pytest.raises(ValueError, match="finite"):
            search(Numbers(9), noises)

    @pytest.mark.parametrize("memory", [1, 2, 3, 5])
    def test_batches_that_are_too_large_are_halved_and_it_is_said(self, memory: int) -> None:
        work, noises = Numbers(9, memory=memory), drawn(20)
        best = search(work, noises, batch=8)
        assert torch.equal(best.losses, search(Numbers(9), noises).losses)
        fits = {1: 1, 2: 2, 3: 2, 5: 4}[memory]
        assert f"memory sufficed for {fits} at once, not for 8" in best.notes
        assert max(count for count, *_ in work.advanced) == fits
        with pytest.raises(torch.OutOfMemoryError):
            search(Numbers(9, memory=0), noises, batch=8)

    def test_memory_that_ends_is_known_by_its_words_too(self) -> None:
        """Twin: other errors are no reason to try again."""
        noises, told = drawn(8), RuntimeError("CUDA error: out of memory")
        best = search(Numbers(9, memory=2, full=told), noises, batch=8)
        assert torch.equal(best.losses, search(Numbers(9), noises).losses)
        with pytest.raises(RuntimeError, match="misaligned"):
            search(Numbers(9, memory=2, full=RuntimeError("misaligned address")), noises, batch=8)

    def test_a_cancel_keeps_what_was_finished(self) -> None:
        """Of eight candidates four go to the end, one after the other: before the first has, there is nothing."""
        for calls, kept in ((0, 0), (5, 0), (8, 0), (9, 1), (10, 2), (11, 3)):
            seen: list[Best] = []
            work, noises = Numbers(9, cancel_after=calls), drawn(8)
            with pytest.raises(KeyboardInterrupt):
                search(work, noises, rounds=1, watch=lambda _number, best, seen=seen: seen.append(best))
            assert len(seen) == kept
            if seen:
                fates = torch.stack(noises)[..., 1]
                wanted = fates.sort(dim=0).values[:4]  # all of the better half
                assert all(float(loss) in wanted[:, place] for place, loss in enumerate(seen[-1].losses))
                assert len(seen[-1].iterations) == 8 and (seen[-1].sampled[:, 0] == 9).all(), "nothing half-made"


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    yield from ((noise, noise) for noise in drawn(1000))


def test_no_more_are_drawn_than_are_wanted() -> None:
    source = endless()
    Halving(Numbers(9), 5, cuts(9, 2), batch=3).run(source)
    assert len(list(source)) == 995


def test_noise_that_nodes_change_is_kept_beside_that_drawn() -> None:
    """The winner's noise is the one before the change, what is sampled is the one after."""
    noises = drawn(4)
    halving = Halving(Numbers(9), 4, cuts(9, 1))
    best = halving.run((noise, noise + torch.tensor([0.0, 5.0])) for noise in noises)
    assert torch.equal(best.start[:, 1], torch.stack(noises)[..., 1].amin(dim=0))
    torch.testing.assert_close(best.sampled[:, 1], best.start[:, 1] + 5)
