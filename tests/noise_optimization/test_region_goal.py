"""Regions as the goal: each place against its own prompt, against a slow crop; in real searches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import techniques
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.guidance.noise_optimization.region_goal import RegionGoal, around
from fovea.guidance.regions.masks import Region, Regions
from fovea.models.scorers.scorer import Scorer
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.noise_optimization import FoveaBestOfN, FoveaOptimizeLatent
from tools.studies import clip_scores


class Bright(Scorer):
    """A prompt is a number: how bright the picture shall be."""

    name, size, unit, patcher = "bright", 8, "brightness", None

    def target(self, prompt: str) -> float:
        return float(prompt)

    def losses(self, squares: Tensor, target: float) -> Tensor:
        return (squares.mean(dim=(1, 2, 3)) - target).square()

    def scores(self, losses: Tensor) -> Tensor:
        return 1 - losses


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, top:bottom, left:right] = 1
    return mask


class TestGoal:
    @settings(max_examples=60)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 39), st.integers(0, 39), st.integers(1, 40),
           st.integers(1, 40))  # fmt: skip
    def test_the_square_is_that_of_the_tables(
        self, height: int, width: int, top: int, left: int, tall: int, wide: int
    ) -> None:
        """The one that scores regions in the study, of pictures as large as the mask."""
        mask = box(40, 40, top, left, top + tall, left + wide)[0]
        picture = torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(height * 41 + width))
        view = around(mask, 40, 40)
        assert view is not None
        crop = picture[view.top : view.top + view.side, view.left : view.left + view.side]
        same = torch.nn.functional.interpolate(crop.movedim(-1, 0)[None], (64, 64), mode="bilinear", antialias=True)
        torch.testing.assert_close(same[0].movedim(0, -1), clip_scores.surroundings(picture, np.asarray(mask) > 0.5))

    def test_masks_of_other_sizes_are_scaled(self) -> None:
        small, large = around(box(16, 16, 4, 4, 8, 8)[0], 128, 128), around(box(128, 128, 32, 32, 64, 64)[0], 128, 128)
        assert small == large and small is not None and small.side == 41
        wide = around(box(10, 20, 0, 0, 10, 20)[0], 100, 200)
        assert wide is not None and wide.side == 100, "no larger than the picture"
        assert around(torch.zeros(8, 8), 64, 64) is None

    def test_each_place_is_compared_with_its_own_prompt(self) -> None:
        pictures = torch.zeros(2, 3, 64, 64)
        pictures[0, :, :, :32], pictures[1] = 1.0, 0.5
        goal = RegionGoal([box(64, 64, 20, 4, 36, 20), box(64, 64, 20, 44, 36, 60)], ["1", "0"], 0.25)
        scorer = Bright()
        losses = goal.losses(scorer, goal.targets(scorer), pictures)
        torch.testing.assert_close(losses, torch.tensor([[0.0, 0.0], [0.25, 0.25]]))
        torch.testing.assert_close(goal.losses(scorer, [0.0, 1.0], pictures)[0], torch.ones(2))  # exchanged
        mixed = goal.mixed(torch.tensor([0.4, 0.4]), torch.tensor([[0.0, 0.2], [0.25, 0.25]]))
        torch.testing.assert_close(mixed, torch.tensor([0.3 + 0.25 * 0.1, 0.3 + 0.25 * 0.25]))

    def test_empty_regions_do_not_count(self) -> None:
        goal = RegionGoal([torch.zeros(1, 8, 8), box(8, 8, 0, 0, 8, 8)], ["1", "0"], 0.5)
        losses = goal.losses(Bright(), [1.0, 0.0], torch.ones(1, 3, 32, 32))
        assert math.isnan(losses[0, 0]) and float(losses[0, 1]) == 1
        assert float(goal.mixed(torch.zeros(1), losses)) == pytest.approx(0.5)
        assert float(goal.mixed(torch.full((1,), 0.3), losses[:, :1])) == pytest.approx(0.3)

    def test_every_picture_has_the_mask_of_its_place(self) -> None:
        masks = torch.cat([box(32, 32, 2, 2, 10, 10), box(32, 32, 20, 20, 28, 28)])
        pictures = torch.zeros(2, 3, 32, 32)
        pictures[0, :, :16, :16] = pictures[1, :, 16:, 16:] = 1
        losses = RegionGoal([masks], ["1"]).losses(Bright(), [1.0], pictures)
        torch.testing.assert_close(losses, torch.zeros(2, 1))

    def test_gradients_stay_in_their_squares(self) -> None:
        pictures = torch.rand(1, 3, 32, 32).requires_grad_()
        goal = RegionGoal([box(32, 32, 2, 2, 10, 10), torch.zeros(1, 32, 32)], ["1", "0"], 1.0)
        losses = goal.mixed(torch.zeros(1), goal.losses(Bright(), [1.0, 0.0], pictures))
        (gradient,) = torch.autograd.grad(losses.sum(), pictures)
        assert torch.isfinite(gradient).all() and gradient[..., :10, :10].abs().sum() > 0
        assert not gradient[..., 16:, 16:].any()


@pytest.fixture(scope="module")
def setup() -> tuple[Any, techniques.World]:
    with torch.inference_mode():
        return demo_model.load_model(), techniques.shapesworld()


def search(setup: tuple[Any, techniques.World], node: Any, **changes: Any) -> tuple:
    model, world = setup
    given = {"vae": world.vae, "positive": world.positive, "negative": world.negative, "scorer": world.scorer,
             "prompt": techniques.PROMPT, "latent_image": {"samples": torch.zeros(1, 4, 32, 32)}, "steps": 3,
             "cfg": 4.0, "candidates": 4, "seed": 3, "regions": techniques.halves()}  # fmt: skip
    with torch.inference_mode():
        return techniques.outputs(node, model=model, **{**given, **changes})


def region_scores(found: tuple) -> list[float]:
    return [float(line.rsplit(" ", 1)[1]) for line in found[5].splitlines() if ", region " in line]


class TestNodes:
    def test_regions_are_reported_and_do_not_count_at_weight_zero(self, setup: tuple[Any, techniques.World]) -> None:
        _, world = setup
        told = search(setup, FoveaBestOfN, region_weight=0.0)
        plain = search(setup, FoveaBestOfN, regions=None)
        assert torch.equal(told[0]["samples"], plain[0]["samples"]) and not region_scores(plain)
        assert "region 2 (a striped blue circle)" in told[5]
        picture = told[1][0]
        for region, got in zip(techniques.halves().items, region_scores(told)):
            mask = region.mask[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
            crop = clip_scores.surroundings(picture, mask.numpy() > 0.5)
            small = torch.nn.functional.interpolate(
                crop.movedim(-1, 0)[None], size=(world.scorer.size, world.scorer.size), mode="bilinear", antialias=True
            )
            wanted = world.scorer.scores(world.scorer.losses(small, world.scorer.target(region.prompt)))
            assert got == pytest.approx(float(wanted), abs=3.0), "its crop is resized once more"

    def test_what_is_searched_for_is_found(self, setup: tuple[Any, techniques.World]) -> None:
        """Of the same candidates, none dropped, the one whose places fit best. Twin: by the whole, it is another."""
        scores = [
            [sum(region_scores(search(setup, FoveaBestOfN, region_weight=weight, rounds=0, candidates=8, seed=seed)))
             for weight in (1.0, 0.0)]
            for seed in range(3, 7)
        ]  # fmt: skip
        assert all(goal >= whole - 0.05 for goal, whole in scores)
        assert any(goal > whole + 10 for goal, whole in scores)
        losses = [search(setup, FoveaBestOfN, region_weight=1.0, rounds=0, candidates=n)[5] for n in (1, 8)]
        assert float(losses[1].split()[5]) <= float(losses[0].split()[5])

    @pytest.mark.parametrize("path", ["past_model", "all_steps"])
    def test_regions_are_optimized(self, setup: tuple[Any, techniques.World], path: str) -> None:
        """Fewer steps, so that the exact gradient holds."""
        given = {"candidates": 1, "region_weight": 1.0, "steps": 2, "gradient_path": path, "update_rule": "spherical"}
        still, moved = (search(setup, FoveaOptimizeLatent, iterations=n, **given) for n in (0, 3))
        assert float(moved[5].split()[5]) < float(still[5].split()[5])
        assert sum(region_scores(moved)) > sum(region_scores(still))

    def test_regions_without_a_prompt_are_left_out(self, setup: tuple[Any, techniques.World]) -> None:
        silent = Regions(tuple(Region(region.mask, " ") for region in techniques.halves().items))
        found = search(setup, FoveaBestOfN, regions=silent, candidates=2)
        assert torch.equal(found[0]["samples"], search(setup, FoveaBestOfN, regions=None, candidates=2)[0]["samples"])
