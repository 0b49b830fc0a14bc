"""Particles: weights, who multiplies, and what it does to the distribution; against the definition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.guidance.noise_optimization.candidate_legs import Candidates, Leg, cuts
from fovea.guidance.noise_optimization.particles import Particles, draw_ancestors, effective_size
from fovea.guidance.noise_optimization.search import Best, Evaluation


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


class TestWeights:
    @settings(max_examples=60)
    @given(n=st.integers(1, 12), seed=st.integers(0, 99), size=st.floats(0, 30))
    def test_effective_size_is_the_slow_one(self, n: int, seed: int, size: float) -> None:
        values = size * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for place, got in enumerate(effective_size(values).tolist()):
            column = values[:, place].tolist()
            weights = [math.exp(v - max(column)) for v in column]
            assert got == pytest.approx(sum(weights) ** 2 / sum(w * w for w in weights))
            assert 1 - 1e-9 <= got <= n + 1e-9

    def test_ancestors_are_drawn_with_the_weights(self) -> None:
        log_weights = torch.tensor([[0.7, 0.1, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log().T
        drawn = torch.cat([draw_ancestors(log_weights, generators(2, 2 * seed)) for seed in range(2000)])
        for place, wanted in enumerate(([0.7, 0.1, 0.2, 0.0], [0.25] * 4)):
            shares = torch.bincount(drawn[:, place], minlength=4) / len(drawn)
            torch.testing.assert_close(shares.tolist(), wanted, atol=0.02, rtol=0)
        assert not (drawn[:, 0] == 3).any()

    def test_a_place_does_not_depend_on_its_neighbors(self) -> None:
        log_weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        both = draw_ancestors(log_weights, generators(3))
        assert torch.equal(both[:, 1:], draw_ancestors(log_weights[:, 1:], generators(3)[1:]))


@dataclass
class Walk:
    """Latents [steps done, position, whose noise]: every step adds noise of the particle's own to the position, and the
    loss is how far it is below `goal`. blind: at the looks after these steps, whose losses are NaN, by order."""

    steps: int
    goal: float = 3.0
    blind: Mapping[int, Sequence[int]] = field(default_factory=dict)
    scored: list[list[float]] = field(default_factory=list)

    def advance(self, candidates: Candidates, start: int, end: int) -> tuple[Tensor, Tensor]:
        x = (candidates.begun if start == 0 else candidates.x).clone()
        for row, numbers in enumerate(candidates.numbers.tolist()):
            for place, number in enumerate(numbers):
                for step in range(start, end):
                    seeded = torch.Generator().manual_seed(1000 * step + 10 * number + place)
                    x[row, place, 1] += torch.randn((), generator=seeded, dtype=x.dtype)
        x[..., 0] = end
        return x, x

    def estimate(self, clean: Tensor) -> Tensor:
        self.scored.append(clean[..., 1].flatten().tolist())
        losses = (self.goal - clean[..., 1]).clamp_min(0)
        losses[[*self.blind.get(int(clean[0, 0, 0]), ())]] = math.nan
        return losses

    def finish(self, latents: Tensor) -> Evaluation:
        losses = (self.goal - latents[..., 1]).clamp_min(0)
        return Evaluation(losses, None, latents, latents[:, :1, None, None].expand(-1, 3, 1, 1))


def drawn(count: int, places: int = 2) -> list[Tensor]:
    return [torch.tensor([[0.0, 0.0, number]] * places, dtype=torch.float64) for number in range(count)]


def search(work: Walk, count: int, strength: float = 2.0, rounds: int = 3, places: int = 2, **more: object) -> Best:
    particles = Particles(work, count, cuts(work.steps, rounds), strength=strength, generators=generators(places),
                          **more)  # type: ignore[arg-type]  # fmt: skip
    return particles.run((noise, noise) for noise in drawn(count, places))


CUTS = cuts(8, 3)
EVERYONE = [0, 1, 2, 3, 4]
# After which steps whose losses are NaN: nobody's; all at the first look, or at the second; some; all but one.
BLIND: list[dict[int, list[int]]] = [
    {}, {CUTS[0]: EVERYONE}, {CUTS[1]: EVERYONE}, {CUTS[0]: EVERYONE, CUTS[1]: EVERYONE}, {CUTS[0]: [1, 3]},
    {CUTS[1]: [0, 4]}, {CUTS[0]: [2], CUTS[1]: [2]}, {CUTS[0]: [0, 1, 2, 4]}, {CUTS[0]: [0, 1, 2, 4], CUTS[1]: [3]},
]  # fmt: skip


class TestSearch:
    def test_all_go_to_the_end(self) -> None:
        assert Particles(Walk(8), 5, (3, 6, 8)).planned(5, (3, 6, 8)) == (Leg(5, 0, 3), Leg(5, 3, 6), Leg(5, 6, 8))
        assert Particles(Walk(8), 1, (3, 6, 8)).planned(1, (3, 6, 8)) == (Leg(1, 0, 8),)

    def test_strength_zero_is_best_of_n(self) -> None:
        """Nobody multiplies: each goes its own way to the end. Twin: with strength they do."""
        best = search(Walk(8), 6, 0.0)
        ends, _ = Walk(8).advance(Candidates.drawn(0, [(noise, noise) for noise in drawn(6)]), 0, 8)
        torch.testing.assert_close(best.losses, (3 - ends[..., 1]).clamp_min(0).amin(dim=0))
        assert best.notes == ["no particles were drawn anew"]
        (told,) = search(Walk(8), 6, 5.0).notes
        assert "drawn anew at step" in told and "from noise" in told

    @pytest.mark.parametrize("blind", BLIND, ids=str)
    @pytest.mark.parametrize("strength", [0.7, 3.0])
    def test_the_slow_one(self, strength: float, blind: dict[int, list[int]]) -> None:
        """One place, with dictionaries. Who is not seen at a look has no weight in it, and is compared with when it was
        last seen."""
        count, at = 5, CUTS
        best = search(Walk(8, blind=blind), count, strength, places=1, batch=count)
        state = {slot: (0.0, slot) for slot in range(count)}  # position, whose noise it began with
        weight, before, unit = dict.fromkeys(range(count), 1.0), dict.fromkeys(range(count), 0.0), None
        random, start = torch.Generator().manual_seed(0), 0
        for cut in at:
            for slot, (position, first) in state.items():
                for step in range(start, cut):
                    seeded = torch.Generator().manual_seed(1000 * step + 10 * slot)
                    position += float(torch.randn((), generator=seeded, dtype=torch.float64))
                state[slot] = (position, first)
            losses = {slot: max(0.0, 3.0 - position) for slot, (position, _) in state.items()}
            if cut == at[-1]:
                break
            start, seen = cut, [slot for slot in state if slot not in blind.get(cut, ())]
            if not seen:
                continue
            mean = sum(losses[slot] for slot in seen) / len(seen)
            spread = math.sqrt(sum((losses[slot] - mean) ** 2 for slot in seen) / len(seen))
            unit = spread if unit is None and spread > 0 else unit
            for slot in seen if unit is not None else ():  # r = -loss
                weight[slot] *= math.exp(strength * (-losses[slot] + before[slot]) / unit)
                before[slot] = losses[slot]
            total = sum(weight[slot] for slot in seen)
            shares = [weight[slot] / total if slot in seen else 0.0 for slot in range(count)]
            if 1 / sum(share**2 for share in shares) < count / 2:
                chosen = torch.multinomial(torch.tensor(shares, dtype=torch.float64), count, True, generator=random)
                order = sorted(chosen.tolist())
                state = {slot: state[order[slot]] for slot in range(count)}
                before = {slot: before[order[slot]] for slot in range(count)}
                weight = dict.fromkeys(range(count), 1.0)
        winner = min(losses, key=lambda slot: losses[slot])
        assert float(best.losses[0]) == pytest.approx(losses[winner])
        assert int(best.start[0, 2]) == state[winner][1], "the noise is that of whom it descends from"

    @pytest.mark.parametrize("blind", BLIND, ids=str)
    def test_nobody_is_drawn_by_what_was_not_seen(self, blind: dict[int, list[int]]) -> None:
        """A look that shows nothing, or little, does not end the method."""
        best = search(Walk(8, blind=blind), 5, 50.0, places=8, batch=5)
        assert torch.isfinite(best.losses).all() and "drawn anew at step" in best.notes[0]

    def test_it_climbs_higher_than_drawing_lots(self) -> None:
        steered, lots = (search(Walk(30, goal=60.0), 40, strength, rounds=9) for strength in (2.0, 0.0))
        assert float(steered.losses.mean()) < float(lots.losses.mean()) - 1

    def test_what_is_not_finite_leaves_no_copies(self) -> None:
        class Broken(Walk):
            def estimate(self, clean: Tensor) -> Tensor:
                losses = super().estimate(clean)
                return losses.where(clean[..., 2] != 1, math.nan)

        best = search(Broken(8), 6, 5.0)
        assert best.dropped >= 1 and torch.isfinite(best.losses).all()

        class Blind(Walk):
            def estimate(self, clean: Tensor) -> Tensor:
                return super().estimate(clean) * math.nan

        assert torch.isfinite(search(Blind(8), 6, 5.0).losses).all()
