"""Starting latents moved down a loss: distances, views of pictures, the rules against slow ones, the search itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.guidance import crops
from fovea.guidance.noise_optimization import losses, update_rules
from fovea.guidance.noise_optimization.losses import SalientLoss
from fovea.guidance.noise_optimization.search import Evaluation, Limits, best_of, search
from fovea.guidance.noise_optimization.update_rules import Doodl, Motion, Reno, Spherical
from fovea.models.scorers.scorer import EmbeddingScorer, spherical


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestSpherical:
    def test_is_half_the_squared_angle(self) -> None:
        a, b = torch.randn(2, 50, 8, generator=generator(), dtype=torch.float64)
        angle = torch.arccos(torch.nn.functional.cosine_similarity(a, b))
        torch.testing.assert_close(spherical(a * 3, b), angle**2 / 2)
        chord = (torch.nn.functional.normalize(a, dim=-1) - torch.nn.functional.normalize(b, dim=-1)).norm(dim=-1)
        torch.testing.assert_close(spherical(a, b), 2 * torch.arcsin(chord / 2) ** 2)

    @pytest.mark.parametrize("sign, value", [(1, 0.0), (-1, math.pi**2 / 2)])
    def test_gradients_are_finite_at_equal_and_opposite_vectors(self, sign: int, value: float) -> None:
        a = torch.tensor([0.6, 0.8, 0.0], requires_grad=True)
        loss = spherical(a, sign * a.detach())
        loss.backward()
        assert float(loss.detach()) == pytest.approx(value) and torch.isfinite(a.grad).all()


class TestViews:
    @settings(max_examples=80, deadline=None)
    @given(
        height=st.integers(1, 90), width=st.integers(1, 90), count=st.integers(1, 6), least=st.integers(1, 120),
        seed=st.integers(0, 999), quantile=st.floats(0, 1),
    )  # fmt: skip
    def test_squares_lie_inside_and_weigh_one(
        self, height: int, width: int, count: int, least: int, seed: int, quantile: float
    ) -> None:
        saliency = torch.rand(height, width, generator=generator(seed)) ** 4
        for found in (
            crops.whole(height, width), crops.cutouts(height, width, count, least, generator(seed)),
            crops.salient_cutouts(saliency, count, least, generator(seed)),
            crops.salient_parts(saliency, quantile, least),
        ):  # fmt: skip
            assert found and sum(view.weight for view in found) == pytest.approx(1)
            for view in found:
                assert 0 <= view.top <= height - view.side and 0 <= view.left <= width - view.side and view.side >= 1
            assert crops.look(torch.rand(3, height, width), found, 8).shape == (len(found), 3, 8, 8)

    def test_the_whole_of_a_wide_picture_is_seen(self) -> None:
        assert [(v.top, v.left, v.side) for v in crops.whole(40, 100)] == [(0, 0, 40), (0, 30, 40), (0, 60, 40)]

    def test_parts_are_where_the_map_is_bright(self) -> None:
        saliency = torch.zeros(128, 128)
        saliency[10:30, 20:40] = 1
        saliency[80:120, 90:110] = 0.8
        big, small = crops.salient_parts(saliency, 0.8, 8)
        assert abs(big.top - 80) <= 2 and abs(big.left - 80) <= 2 and abs(big.side - 40) <= 2
        assert abs(small.top - 10) <= 2 and abs(small.left - 20) <= 2 and abs(small.side - 20) <= 2
        assert big.weight / small.weight == pytest.approx(0.8 * 800 / 400, rel=0.05)

    def test_labels_of_older_kornia(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are lower by one: the first cell, where it is a part by itself, has that of the background."""
        saliency = torch.zeros(20, 20)
        saliency[0, 0], saliency[8:14, 10:14] = 1, 2
        wanted, label = crops.salient_parts(saliency, 0.8, 2), crops.connected_components
        monkeypatch.setattr(crops, "connected_components", lambda *a, **more: (label(*a, **more) - 1).clamp_min(0))
        assert crops.salient_parts(saliency, 0.8, 2) == wanted and [view.side for view in wanted] == [6, 2]

    def test_drawn_squares_follow_the_density(self) -> None:
        saliency = torch.zeros(64, 64)
        saliency[48:, :16] = 1
        found = crops.salient_cutouts(saliency, 200, 4, generator())
        small = [view for view in found if view.side < 20]
        assert small and all(view.top + view.side / 2 > 40 and view.left + view.side / 2 < 24 for view in small)

    @pytest.mark.parametrize("saliency", [torch.zeros(9, 9), torch.full((9, 9), float("nan"))])
    def test_nothing_salient(self, saliency: Tensor) -> None:
        assert crops.salient_parts(saliency, 0.8, 2) == [] == crops.salient_cutouts(saliency, 3, 2, generator())


class Linear(EmbeddingScorer):
    """A scorer of 8-pixel squares."""

    size = 8

    def __init__(self) -> None:
        self.matrix = torch.randn(3 * 64, 5, generator=generator(1), dtype=torch.float64)

    def image(self, squares: Tensor) -> Tensor:
        return squares.flatten(1).double() @ self.matrix

    def text(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError("tests give the target")


class TestLoss:
    pictures = torch.rand(2, 3, 32, 32, generator=generator(2), dtype=torch.float64)
    wanted = torch.randn(5, generator=generator(3), dtype=torch.float64)

    def loss(self, saliency: Tensor | None, **changes: object) -> Tensor:
        made = SalientLoss(**changes)  # type: ignore[arg-type]
        return made(Linear(), self.wanted, self.pictures, saliency, [generator(4), generator(5)])

    def test_weight_zero_is_the_whole_picture(self) -> None:
        small = torch.nn.functional.interpolate(self.pictures, size=(8, 8), mode="bilinear", antialias=True)
        expected = spherical(small.flatten(1) @ Linear().matrix, self.wanted)
        saliency = torch.rand(2, 32, 32)
        torch.testing.assert_close(self.loss(saliency, weight=0.0), expected)
        torch.testing.assert_close(self.loss(None, weight=0.7), expected)
        torch.testing.assert_close(self.loss(torch.zeros(2, 32, 32), weight=0.7), expected)

    def test_of_several_cutouts_the_best_counts(self) -> None:
        (seen,) = [crops.cutouts(32, 32, 6, 8, generator(4))]
        each = spherical(Linear().image(crops.look(self.pictures[0], seen, 8)), self.wanted)
        assert float(self.loss(None, weight=0.0, cutouts=6)[0]) == pytest.approx(float(each.min()))

    @pytest.mark.parametrize("views", ["crops", "cutouts"])
    def test_mixture(self, views: str) -> None:
        saliency = torch.rand(2, 32, 32, generator=generator(7)) ** 6
        whole = self.loss(saliency, weight=0.0, views=views)
        salient = self.loss(saliency, weight=1.0, views=views)
        torch.testing.assert_close(self.loss(saliency, weight=0.3, views=views), 0.7 * whole + 0.3 * salient)
        assert (whole - salient).abs().min() > 1e-4

    def test_a_picture_does_not_depend_on_its_neighbors(self) -> None:
        saliency = torch.rand(2, 32, 32, generator=generator(7))
        together = self.loss(saliency, views="cutouts")
        alone = SalientLoss(views="cutouts")(
            Linear(), self.wanted, self.pictures[1:], saliency[1:], [generator(5)]
        )  # fmt: skip
        torch.testing.assert_close(together[1:], alone)


class TestAsPublished:
    def test_average_pooling(self) -> None:
        """DOODL's way to bring squares to a scorer's size, cell by cell."""
        picture = torch.rand(3, 20, 26, generator=generator(3))
        (got,) = crops.look(picture, [crops.View(2, 5, 18)], 8, "average pooling")
        square = picture[:, 2:20, 5:23]
        for y, x in ((0, 0), (3, 7), (7, 2)):
            rows, columns = (slice(at * 18 // 8, -(-(at + 1) * 18 // 8)) for at in (y, x))
            torch.testing.assert_close(got[:, y, x], square[:, rows, columns].mean((1, 2)))

    def test_squares_are_no_smaller_than_the_scorers_size(self) -> None:
        seen: list[int] = []
        real = crops.cutouts

        def spy(*given: object) -> list[crops.View]:
            found = real(*given)  # type: ignore[arg-type]
            seen.extend(view.side for view in found)
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crops, "cutouts", spy)
            for side in (32, 6):
                pictures = torch.rand(1, 3, side, side + 5, dtype=torch.float64)
                SalientLoss(weight=0.0, cutouts=40)(Linear(), torch.ones(5), pictures, None, [generator(1)])
        assert min(seen[:40]) >= Linear.size and max(seen[:40]) > 20 and set(seen[40:]) == {6}

    @pytest.mark.parametrize("size", [(64, 64), (48, 100), (100, 30)])
    def test_letterbox_is_the_official_preparation(self, size: tuple[int, int]) -> None:
        """HPS: the longer side fitted, bicubic, black around it; Pillow's 8 bits are the difference."""
        from PIL import Image
        from torchvision.transforms import functional

        values = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator(4))
        picture = values.movedim(-1, 0).float() / 255
        scale = 32 / max(size)
        fitted = [max(1, round(n * scale)) for n in size]
        small = functional.to_tensor(Image.fromarray(values.numpy()).resize(fitted[::-1], Image.Resampling.BICUBIC))
        wanted, (top, left) = torch.zeros(3, 32, 32), [(32 - n) // 2 for n in fitted]
        wanted[:, top : top + fitted[0], left : left + fitted[1]] = small
        torch.testing.assert_close(crops.letterbox(picture, 32)[0], wanted, rtol=0, atol=0.012)

    def test_a_scorer_of_whole_pictures_sees_one_square(self) -> None:
        class Boxed(Linear):
            letterbox = True

        picture, target = torch.rand(3, 40, 90, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
        wanted = spherical(Boxed().image(crops.letterbox(picture, 8)), target)[0]
        found = SalientLoss(weight=0.0)(Boxed(), target, picture[None], None, [generator(1)])
        torch.testing.assert_close(found[0], wanted)
        torch.testing.assert_close(losses.picture_score(Boxed(), picture, target), 100 * torch.cos((2 * wanted).sqrt()))

    def test_a_scorer_of_pictures_as_they_are(self) -> None:
        """No square of it, and of any shape; what is salient it sees in squares of its size."""

        class Whole(Linear):
            whole = True
            seen: ClassVar[list[tuple[int, ...]]] = []

            def losses(self, squares: Tensor, target: Tensor) -> Tensor:
                self.seen.append(tuple(squares.shape))
                return squares.mean(dim=(1, 2, 3)) - target

        picture, saliency = torch.rand(3, 40, 90), torch.zeros(1, 40, 90)
        saliency[:, 10:20, 10:20] = 1
        scorer, target = Whole(), torch.tensor(0.25)
        found = SalientLoss(weight=0.0)(scorer, target, picture[None], saliency, [generator(1)])
        torch.testing.assert_close(found, picture.mean()[None] - 0.25)
        losses.picture_score(scorer, picture, target)
        assert scorer.seen == [(1, 3, 40, 90)] * 2
        mixed = SalientLoss(weight=0.4)(scorer, target, picture[None], saliency, [generator(1)])
        assert scorer.seen[2:] == [(1, 3, 40, 90), (1, 3, 8, 8)]
        views = crops.salient_parts(saliency[0], 0.85, 10)
        part = crops.look(picture, views, 8).mean() - 0.25
        torch.testing.assert_close(mixed, (0.6 * found + 0.4 * part))


class TestRules:
    def test_doodl_is_the_slow_one(self) -> None:
        rule, z = Doodl(rate=2.0, clamp=0.5, perturb=0.01), torch.randn(2, 3, 4, generator=generator())
        motion, got, slow, velocity = update_rules.at_rest(z), z, z.double().tolist(), torch.zeros(2, 3, 4).tolist()
        for step in range(3):
            gradient = torch.randn(2, 3, 4, generator=generator(10 + step))
            noise = torch.randn(2, 3, 4, generator=generator(20 + step))
            got, motion = rule.update(got, gradient, motion, noise, torch.ones(2))
            for n in range(2):
                before = math.sqrt(sum(v**2 for row in z[n].tolist() for v in row))
                for i in range(3):
                    for j in range(4):
                        g = min(0.5, max(-0.5, float(gradient[n, i, j])))
                        velocity[n][i][j] = 0.9 * velocity[n][i][j] + g
                        slow[n][i][j] += 0.01 * float(noise[n, i, j]) - 2.0 * velocity[n][i][j]
                after = math.sqrt(sum(v**2 for row in slow[n] for v in row))
                slow[n] = [[v * before / after for v in row] for row in slow[n]]
        torch.testing.assert_close(got, torch.tensor(slow), rtol=1e-5, atol=1e-5)

    def test_reno_is_torchs_sgd_on_the_regularised_loss(self) -> None:
        start, target = torch.randn(1, 20, generator=generator()), torch.randn(1, 20, generator=generator(1))
        leaf = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([leaf], lr=0.5, momentum=0.9, nesterov=True)
        rule, z, motion = Reno(rate=0.5), start, update_rules.at_rest(start)
        for _ in range(4):
            optimizer.zero_grad()
            norm = leaf.norm()
            ((leaf - target).square().sum() + 0.01 * (norm**2 / 2 - 19 * norm.log())).backward()
            torch.nn.utils.clip_grad_norm_([leaf], 0.1)
            optimizer.step()
            z, motion = rule.update(z, 2 * (z - target), motion, torch.zeros_like(z), torch.ones(1))
            torch.testing.assert_close(z, leaf.detach(), rtol=1e-4, atol=1e-5)

    def test_turn_goes_equally_far_and_keeps_the_length(self) -> None:
        rule, z = Spherical(rate=0.05), torch.randn(2, 3, 4, 4, generator=generator())
        down = torch.randn(2, 3, 4, 4, generator=generator(1))
        down = down - z * (down * z).flatten(1).sum(1).reshape(2, 1, 1, 1) / z.flatten(1).norm(dim=1).reshape(
            2, 1, 1, 1) ** 2  # fmt: skip
        motion = update_rules.at_rest(z)
        for scale in (1e-20, 1.0, 1e9):
            moved, _ = rule.update(z, scale * down, motion, z, torch.tensor([1.0, 0.5]))
            torch.testing.assert_close(moved.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))
            angle = torch.arccos(torch.nn.functional.cosine_similarity(moved.flatten(1), z.flatten(1)))
            torch.testing.assert_close(angle.tan(), torch.tensor([0.05, 0.025]), rtol=1e-2, atol=0)
            assert ((moved - z) * down).flatten(1).sum(1).max() < 0

    @pytest.mark.parametrize("rule", [Doodl(), Reno(), Spherical()])
    def test_latents_do_not_depend_on_their_neighbors(self, rule: update_rules.Rule) -> None:
        z, gradient, noise = torch.randn(3, 2, 4, 5, 5, generator=generator())
        both, _ = rule.update(z, gradient, update_rules.at_rest(z), noise, torch.ones(2))
        one, _ = rule.update(z[1:], gradient[1:], update_rules.at_rest(z[1:]), noise[1:], torch.ones(1))
        torch.testing.assert_close(both[1:], one)


class TestSearch:
    start = torch.randn(2, 10, generator=generator())

    @staticmethod
    def bowl(z: Tensor, wanted: bool) -> Evaluation:
        losses = (z - 1).square().mean(dim=1)
        pictures = z.reshape(-1, 1, 2, 5).expand(-1, 3, -1, -1)
        return Evaluation(losses, 2 * (z - 1) / 10 if wanted else None, z * 2, pictures)

    def test_loss_falls_and_the_best_is_returned(self) -> None:
        rule = Doodl(rate=20.0, clamp=1.0, keep_norm=False, perturb=0.0)  # it overshoots
        seen: list[float] = []
        best = search(self.start, self.bowl, rule, Limits(12), [generator()] * 2, lambda i, b: seen.append(i))
        curve = torch.tensor(best.iterations)
        assert curve.shape == (13, 2) and seen == list(range(13))
        torch.testing.assert_close(best.losses, curve.amin(dim=0))
        assert (curve[-1] > best.losses).any(), "the last was not the best"
        torch.testing.assert_close(self.bowl(best.start, False).losses, best.losses)
        torch.testing.assert_close(best.sampled, best.start * 2)

    def test_what_was_found_before_is_kept(self) -> None:
        before = best_of([self.start, self.start * 0 + 1.01], self.bowl)
        best = search(self.start, self.bowl, Doodl(), Limits(3), [generator()] * 2, best=before)
        assert len(best.iterations) == 6 and float(best.losses.max()) == pytest.approx(1e-4, rel=0.1)

    def test_no_updates_evaluates_once(self) -> None:
        asked: list[bool] = []

        def evaluate(z: Tensor, wanted: bool) -> Evaluation:
            asked.append(wanted)
            return self.bowl(z, wanted)

        best = search(self.start, evaluate, Doodl(), Limits(0), [generator()] * 2)
        assert asked == [False] and torch.equal(best.start, self.start)

    def test_nan_goes_back_to_the_best_and_neighbors_go_on(self) -> None:
        calls = [0]

        def evaluate(z: Tensor, wanted: bool) -> Evaluation:
            found = self.bowl(z, wanted)
            calls[0] += 1
            if calls[0] == 3:
                found.losses[0] = float("nan")
            if calls[0] == 4 and found.gradient is not None:
                found.gradient[0] = float("inf")
            return found

        rule = Doodl(rate=0.5, clamp=1.0, perturb=0.0, keep_norm=False)
        best = search(self.start, evaluate, rule, Limits(8), [generator()] * 2)
        alone = search(self.start[1:], self.bowl, rule, Limits(8), [generator()])
        assert best.rejected == 2 and torch.isfinite(best.losses).all()
        torch.testing.assert_close(best.start[1:], alone.start)
        assert best.losses[0] < self.bowl(self.start, False).losses[0]

    def test_what_is_below_everything_wins_nothing(self) -> None:
        losses = [torch.tensor([value, 0.5]) for value in (0.5, -math.inf, 0.4, math.inf)]

        def evaluate(z: Tensor, wanted: bool) -> Evaluation:
            return self.bowl(z, wanted)._replace(losses=losses[int(z[0, 0])])

        best = best_of([torch.full_like(self.start, number) for number in range(4)], evaluate)
        assert best.losses.tolist() == pytest.approx([0.4, 0.5]) and float(best.start[0, 0]) == 2

    def test_nothing_finite(self) -> None:
        def evaluate(z: Tensor, wanted: bool) -> Evaluation:
            return self.bowl(z, wanted)._replace(losses=torch.full((2,), float("nan")))

        with pytest.raises(ValueError, match="finite"):
            search(self.start, evaluate, Doodl(), Limits(50), [generator()] * 2)

    def test_limits(self) -> None:
        flat = lambda z, wanted: self.bowl(z * 0, wanted)  # noqa: E731
        best = search(self.start, flat, Doodl(), Limits(50, patience=3), [generator()] * 2)
        assert len(best.iterations) == 4 and "nothing better" in best.stopped
        before = best_of([self.start * 0], flat)
        best = search(self.start * 0, flat, Doodl(), Limits(50, patience=3), [generator()] * 2, best=before)
        assert len(best.iterations) == 5, "what was found before does not count as a trial without progress"
        best = search(self.start, self.bowl, Doodl(), Limits(50, seconds=1e-9), [generator()] * 2)
        assert len(best.iterations) == 1 and "time is up" in best.stopped

    def test_the_same_seed_finds_the_same(self) -> None:
        runs = [search(self.start, self.bowl, Doodl(), Limits(5), [generator(1), generator(2)]) for _ in range(2)]
        assert torch.equal(runs[0].start, runs[1].start)
        assert isinstance(update_rules.at_rest(self.start), Motion)
