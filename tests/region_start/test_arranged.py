"""Arranged noise: which blocks go where, by a slow rule written out; still Gaussian; in runs of every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode
from hypothesis import given
from hypothesis import strategies as st
from region_steps import boxes, marked, steered, two_regions
from torch import Tensor

from fovea.guidance import starting_noise
from fovea.guidance.region_start import arranged
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.score_bias import RegionBias

REGIONS = two_regions(boxes(32, 32))


def control(noises: int = 1) -> RegionControl:
    return RegionControl(RegionBias(), 0.0, 0.0, arranged_noises=noises)


def looking(model: Any, seen: dict[str, Tensor] | None = None) -> Any:
    """A model that arranges; the noise that its sampler gets goes into `seen`."""
    patched = steered(model)
    starting_noise.install(patched, arranged.ARRANGED)

    def wrapper(executor: Any, *given: Any) -> Any:
        seen["noise"] = given[4]
        return executor(*given)

    if seen is not None:
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "test", wrapper)
    return patched


@st.composite
def choices(draw: Any) -> tuple[Tensor, Tensor]:
    """Attention of blocks to regions' words, and owned cells; one noise or several."""
    cells, regions, noises = draw(st.integers(1, 30)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    looked = torch.rand(noises * cells, regions, generator=generator)
    owners = torch.randint(-1, regions, (cells,), generator=generator)
    shares = torch.stack([(owners == r).float() for r in range(regions)], dim=1)
    return looked, shares


class TestChoice:
    @given(choices())
    def test_each_block_is_used_once_and_small_regions_choose_first(self, given: tuple[Tensor, Tensor]) -> None:
        looked, shares = given
        cells, regions = shares.shape
        movable = torch.rand(cells, generator=torch.Generator().manual_seed(len(looked))) < 0.8
        order = arranged.chosen_blocks(looked, shares, movable).tolist()
        assert len(set(order)) == cells and min(order) >= 0
        assert len(looked) > cells or sorted(order) == list(range(cells))
        assert all(order[c] == c for c in range(cells) if not movable[c])
        relative, left = looked / looked.mean(0), set(range(len(looked))) - {c for c in range(cells) if not movable[c]}
        wanted = {r: [c for c in range(cells) if shares[c, r] == 1 and movable[c]] for r in range(regions)}
        for r in sorted(wanted, key=lambda r: len(wanted[r])):
            rating = {b: 2 * relative[b, r] - relative[b].sum() for b in left}
            best = set(sorted(left, key=lambda b: -float(rating[b]))[: len(wanted[r])])
            assert {order[c] for c in wanted[r]} == best
            assert all(order[c] == c for c in wanted[r] if c in best), "what is right where it is stays"
            left -= best

    def test_nothing_moves_where_nobody_wants_it(self) -> None:
        order = arranged.chosen_blocks(torch.rand(9, 2), torch.zeros(9, 2), torch.ones(9, dtype=torch.bool))
        assert order.tolist() == list(range(9))

    def test_with_several_noises_the_rest_is_what_no_words_look_at(self) -> None:
        looked = torch.tensor([[9.0], [1.0], [5.0], [0.0], [3.0], [2.0]])
        order = arranged.chosen_blocks(looked, torch.tensor([[0.0], [1.0], [0.0]]), torch.ones(3, dtype=torch.bool))
        assert order[1] == 0 and {int(order[0]), int(order[2])} == {3, 1}


class TestBlocks:
    @pytest.mark.parametrize("size", [(32, 32), (34, 30), (33, 47)])
    def test_one_noise_is_only_permuted(self, size: tuple[int, int]) -> None:
        noise = torch.randn(2, 1, 4, *size, generator=torch.Generator().manual_seed(0))
        maps = torch.rand(2, 1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
        made = arranged.arranged(noise, maps, REGIONS.canvas(), torch.ones_like(noise[:, 0]))
        assert made.shape == noise[:, 0].shape and not torch.equal(made, noise[:, 0])
        assert torch.equal(made.flatten(2).sort().values, noise[:, 0].flatten(2).sort().values)

    def test_a_block_moves_as_a_whole_to_its_region(self) -> None:
        """The words of the region at the upper left look at the lower right, and nowhere else."""
        noise = torch.arange(64.0).reshape(1, 1, 1, 8, 8)
        canvas, maps = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 1, 4, 4)
        canvas[..., :2, :2] = 1
        maps[..., 3, 3] = 1
        made = arranged.arranged(noise, maps, canvas, torch.ones_like(noise[:, 0]))
        assert torch.equal(made[0, 0, :2, :2], noise[0, 0, 0, 6:, 6:])
        assert torch.equal(made[0, 0, 6:, 6:], noise[0, 0, 0, :2, :2])

    def test_a_mask_per_picture(self) -> None:
        noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        canvas, maps = torch.zeros(2, 1, 8, 8), torch.rand(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        canvas[0, :, :4] = 1
        made = arranged.arranged(noise, maps, canvas, torch.ones_like(noise[:, 0]))
        assert torch.equal(made[1], noise[1, 0]) and not torch.equal(made[0], noise[0, 0])

    def test_a_moving_mask_counts_by_its_mean(self) -> None:
        """Blocks go through all frames of a video."""
        noise = torch.randn(1, 1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        canvas, maps = torch.zeros(2, 1, 8, 8), torch.rand(1, 1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        canvas[0, :, :4], canvas[1, :, :, :4] = 1, 1  # of which half is the upper left quarter's
        moving = arranged.arranged(noise, maps, canvas, torch.ones_like(noise[:, 0]))
        mean = arranged.arranged(noise, maps, canvas.mean(0, keepdim=True), torch.ones_like(noise[:, 0]))
        first = arranged.arranged(noise, maps, canvas[:1], torch.ones_like(noise[:, 0]))
        assert torch.equal(moving, mean) and not torch.equal(moving, first)

    def test_a_soft_mask_keeps_every_block_that_it_does_not_free(self) -> None:
        """So the noise is still only permuted, and no block is there twice."""
        noise = torch.randn(1, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        inside = torch.linspace(-0.5, 3, 16).clamp(0, 1).expand(1, 4, 16, 16)
        canvas = torch.zeros(1, 1, 16, 16)
        canvas[..., :8, :] = 1
        maps = torch.rand(1, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        made = arranged.arranged(noise, maps, canvas, inside)
        assert torch.equal(made.flatten(1).sort().values, noise.flatten(1).sort().values)
        kept = 2 * int((inside[0, 0, 0] < 1).sum() + 1) // 2
        assert torch.equal(made[..., :kept], noise[:, 0, ..., :kept]) and not torch.equal(made, noise[:, 0])


class TestRuns:
    @pytest.mark.parametrize("noises", [1, 3])
    @pytest.mark.parametrize("kind", ["sd15", "sdxl"])
    def test_of_unets(self, kind: str, noises: int) -> None:
        """The sampler begins with what the node says; so many evaluations, of the positive prompt alone, more."""
        model, seen = tiny.unet(kind), {}
        noise = tiny.noise(64, 64, batch=2)
        positive = marked(tiny.prompt(1), REGIONS, control=control(noises))
        with tiny.watching(model, "") as calls:
            got = tiny.sample(looking(model, seen), noise, positive=positive)
        assert [call["chunks"] for call in calls[:noises]] == [[0]] * noises and len(calls) == 3 + noises
        wanted = tiny.sample(model, seen["noise"], positive=tiny.prompt(1))
        assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()
        assert not torch.equal(seen["noise"], noise)
        if noises == 1:
            assert torch.equal(seen["noise"].flatten(1).sort().values, noise.flatten(1).sort().values)

    @pytest.mark.parametrize("name", list(dit.KINDS))
    def test_of_transformers(self, name: str) -> None:
        model, seen = dit.build(name), {}
        noise = dit.noise(name, 32, 48, frames=2)
        prompt = marked(dit.prompt(1), two_regions(boxes(32, 48)), ((1, 2), (5, 6)), control())
        dit.sample(looking(model, seen), noise, positive=prompt)
        assert torch.equal(seen["noise"].flatten(1).sort().values, noise.flatten(1).sort().values)
        assert not torch.equal(seen["noise"], noise)

    def test_a_picture_does_not_depend_on_its_neighbors(self) -> None:
        model, noise, found = tiny.unet("sd15"), tiny.noise(64, 64, batch=2), []
        for start in (noise, noise[1:]):
            seen: dict[str, Tensor] = {}
            tiny.sample(looking(model, seen), start, positive=marked(tiny.prompt(1), REGIONS, control=control(3)))
            found.append(seen["noise"])
        assert torch.equal(found[0][1:], found[1])

    def test_what_is_kept_of_a_picture_keeps_its_noise(self) -> None:
        model, noise, seen = tiny.unet("sd15"), tiny.noise(64, 64), {}
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., :32] = 1
        picture = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(5))
        positive = marked(tiny.prompt(1), REGIONS, control=control(2))
        tiny.sample(looking(model, seen), noise, positive=positive, latent=picture, noise_mask=mask)
        assert torch.equal(seen["noise"][..., 32:], noise[..., 32:]) and not torch.equal(seen["noise"], noise)

    def test_several_noises_leave_the_mean_as_it_is(self) -> None:
        """Which is the picture's brightness and tint."""
        model, noise, seen = tiny.unet("sd15"), tiny.noise(64, 64, batch=2), {}
        tiny.sample(looking(model, seen), noise, positive=marked(tiny.prompt(1), REGIONS, control=control(4)))
        assert torch.allclose(seen["noise"].mean((2, 3)), noise.mean((2, 3)), atol=1e-5)
        assert not torch.equal(seen["noise"], noise)

    def test_a_cache_of_steps_is_left_in_peace(self, caplog: pytest.LogCaptureFixture) -> None:
        model, noise, seen = tiny.unet("sd15"), tiny.noise(64, 64), {}
        cached = EasyCacheNode.execute(looking(model, seen), 0.2, 0.15, 0.95, False).result[0]
        tiny.sample(cached, noise, positive=marked(tiny.prompt(1), REGIONS, control=control()))
        assert torch.equal(seen["noise"], noise) and "is not arranged" in caplog.text

    def test_a_network_of_coarse_grids_alone_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        noise, seen = tiny.noise(16, 16), {}
        tiny.sample(
            looking(tiny.unet("sd15"), seen), noise, positive=marked(tiny.prompt(1), REGIONS, control=control())
        )
        assert torch.equal(seen["noise"], noise) and "no layer that can be read" in caplog.text

    def test_a_model_that_sees_tiles_is_left_in_peace_and_told(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nothing says which part of the picture each of its places is."""

        def tiles(apply: Any, args: dict) -> Tensor:
            x, t, c = args["input"], args["timestep"], args["c"]
            return torch.cat([apply(part, t, **c) for part in x.chunk(2, dim=2)], dim=2)

        fine = {"transformer_depth": [1, 1, 1, 1], "transformer_depth_output": [1] * 8}  # halves have fine grids, too
        model, noise, seen = tiny.unet("sd15", **fine), tiny.noise(64, 64), {}
        model.set_model_unet_function_wrapper(tiles)
        tiny.sample(looking(model, seen), noise, positive=marked(tiny.prompt(1), REGIONS, control=control()))
        assert torch.equal(seen["noise"], noise) and "is not arranged" in caplog.text

    def test_a_region_without_words_or_place_moves_nothing(self) -> None:
        model, noise, seen = tiny.unet("sd15"), tiny.noise(64, 64), {}
        nowhere = Regions((Region(torch.zeros(1, 8, 8), "x"), Region(torch.zeros(1, 8, 8), "")))
        tiny.sample(looking(model, seen), noise, positive=marked(tiny.prompt(1), nowhere, ((1,), ()), control()))
        assert torch.equal(seen["noise"], noise)
