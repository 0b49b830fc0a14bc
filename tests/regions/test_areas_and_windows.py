"""Regions where the network sees a part of the picture, or where a guider has its own order of prompts."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from region_steps import PLACES, assert_alike, boxes, marked, steered, two_regions
from torch import Tensor

from fovea.attention.conds import Row, RowKey, Window
from fovea.attention.run import Run
from fovea.attention.sites import LayerTokens
from fovea.guidance.region_lora.shares import shares_of_row
from fovea.guidance.region_start.painting import Painting
from fovea.guidance.regions import score_bias
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Part, Region, Regions, part_of, token_shares
from fovea.guidance.regions.score_bias import RegionBias
from fovea.nodes.style import FoveaStyleGuidance

ALWAYS = RegionControl(RegionBias(area_weight=0.0), 1.0, 1.0, law="constant")  # weights are shares


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("shallow")


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """W [batch, image tokens, regions] and T [batch or 1, keys, regions] of every steered call."""
    seen: list[tuple[Tensor, Tensor]] = []
    real = score_bias.bias_scores

    def spy(q: Tensor, k: Tensor, scale: float, queries: Tensor, keys: Tensor, *rest: Any) -> Any:
        seen.append((queries.clone(), keys.clone()))
        return real(q, k, scale, queries, keys, *rest)

    monkeypatch.setattr(score_bias, "bias_scores", spy)
    return seen


class TestPart:
    @pytest.mark.parametrize(
        "area, latent, wanted",
        [
            (None, (32, 40), Part((32, 40))),
            ((16, 20, 8, 4), (16, 20), Part((32, 40), (8, 4))),
            ((99, 99, 8, 4), (24, 36), Part((32, 40), (8, 4))),  # as far as there is picture
            (None, (16, 16), None),  # a tile
            ((16, 20, 8, 4), (8, 8), None),
        ],
    )  # fmt: skip
    def test_of_a_picture(self, area: tuple | None, latent: tuple[int, int], wanted: Part | None) -> None:
        assert part_of((32, 40), latent, area, None) == wanted

    def test_of_a_video(self) -> None:
        window = Window((3, 4, 5), 2, True)
        assert part_of((8, 16, 16), (4, 16, 16), None, window) == Part((16, 16), (0, 0), (2, 3, 4, 5), 8)
        assert part_of((8, 16, 16), (8, 8, 16), (8, 16, 4, 0), None) == Part((16, 16), (4, 0))
        assert part_of((8, 16, 16), (2, 16, 16), (2, 16, 16, 3, 0, 0), None) == Part((16, 16), (0, 0), (3, 4), 8)
        assert part_of((8, 16, 16), (6, 16, 16), None, window) == Part((16, 16))  # with frames that lead the way

    def test_a_sliver_of_a_region_is_no_thin_region(self) -> None:
        """Most of it lies outside of the part; a region that is thin everywhere keeps a token."""
        wide, thin = torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)
        wide[:, :, :33], thin[:, 20, 34] = 1, 1
        canvas = Regions((Region(wide), Region(thin))).canvas()
        shares = token_shares(canvas, (8, 4), (64, 32), (64, 64), (0, 32))
        assert float(shares[..., 0].max()) == 0.125 and float(shares[..., 1].max()) == 1

    def test_packed_latents_are_taken_as_they_come(self) -> None:
        assert part_of((4096,), (16, 16), None, None) == Part((16, 16))

    def test_shares_of_a_part_are_part_of_the_shares(self) -> None:
        canvas = Regions(tuple(Region(mask) for mask in boxes())).canvas()
        whole = token_shares(canvas, (16, 16), (64, 64), (64, 64)).unflatten(1, (16, 16))
        part = token_shares(canvas, (8, 4), (32, 16), (64, 64), (16, 40)).unflatten(1, (8, 4))
        assert torch.equal(part, whole[:, 4:12, 10:14])


class TestWhatTheNetworkSees:
    def test_an_areas_prompt_has_its_part_of_the_regions(self, model: Any, pulls: list) -> None:
        prompt = marked(tiny.prompt(1, area=(32, 16, 0, 16)), two_regions(), control=ALWAYS)
        tiny.sample(steered(model), tiny.noise(32, 32), 5.0, 1, prompt)
        left, right = (mask[0].unflatten(0, (32, 2)).unflatten(2, (32, 2)).mean((1, 3)) for mask in boxes())
        finest = max((queries for queries, _ in pulls), key=lambda queries: queries.shape[1])
        scale = round((32 * 16 / finest.shape[1]) ** 0.5)
        for region, mask in enumerate((left, right)):
            cells = mask[:, 16:].unflatten(0, (-1, scale)).unflatten(2, (-1, scale)).mean((1, 3))
            torch.testing.assert_close(finest[0, :, region], cells.flatten())

    def test_a_tile_of_another_node_is_left_alone_and_said(
        self, model: Any, pulls: list, caplog: pytest.LogCaptureFixture
    ) -> None:
        def tiles(apply: Any, args: dict) -> Tensor:
            x, t, c = args["input"], args["timestep"], args["c"]
            return torch.cat([apply(part, t, **c) for part in x.chunk(2, dim=2)], dim=2)

        tiled = model.clone()
        tiled.set_model_unet_function_wrapper(tiles)
        prompt = marked(tiny.prompt(1), two_regions(), control=ALWAYS)
        got = tiny.sample(steered(tiled), tiny.noise(32, 32), 5.0, 2, prompt)
        assert not pulls and torch.equal(got, tiny.sample(tiled, tiny.noise(32, 32), 5.0, 2, tiny.prompt(1)))
        assert ["Sample the whole" in record.message for record in caplog.records].count(True) == 1

    @pytest.mark.parametrize("length, overlap", [(4, 2), (5, 1)])
    def test_windows_of_a_video_have_their_frames_masks(self, pulls: list, length: int, overlap: int) -> None:
        """Frame f is wholly of region f modulo 2 and f // 2 tells how much of it."""
        wan, frames = dit.build("wan"), 8
        masks = [torch.stack([torch.full((16, 16), (f + 1) / 10.0 if f % 2 == r else 0.0) for f in range(frames)])
                 for r in range(2)]  # fmt: skip
        regions = Regions((Region(masks[0], "a"), Region(masks[1], "b")))
        prompt = marked(dit.prompt(1), regions, ((1,), (2,)), control=ALWAYS)
        with dit.watching(wan, "wan") as calls:
            dit.sample(steered(tiny.windowed(wan, length, overlap, 2)), dit.noise("wan", 16, 16, frames=frames),
                       positive=prompt, steps=1)  # fmt: skip
        seen = {call["x"].shape[2] for call in calls}
        assert seen and max(seen) < frames
        found = set()
        for queries, _ in pulls:
            per_frame = queries[0, :, :2].sum(-1).unflatten(0, (-1, 64))[:, 0]
            found.add(tuple(round(float(v) * 10 - 1) for v in per_frame))
        assert found and all(window == tuple(range(window[0], window[0] + len(window))) for window in found), found
        assert set().union(*found) == set(range(frames))

    def test_regions_with_other_numbers_of_masks_keep_step(self, pulls: list) -> None:
        """Two masks over four frames are for two frames each, beside a region with four: for Dense Diffusion, Region
        LoRA and Region Start."""
        wan, counts = dit.build("wan"), (2, 4)
        masks = ((torch.arange(1.0, n + 1) / 10)[:, None, None].expand(n, 16, 16) for n in counts)
        regions = Regions(tuple(Region(mask, name) for mask, name in zip(masks, "ab")), "share")
        wanted = torch.tensor([[(f * n // 4 + 1) / 10 for n in counts] for f in range(4)])
        prompt = marked(dit.prompt(1), regions, ((1,), (2,)), control=ALWAYS)
        dit.sample(steered(wan), dit.noise("wan", 16, 16, frames=4), positive=prompt, steps=1)
        assert pulls
        for queries, _ in pulls:
            torch.testing.assert_close(queries[0, :, :2].unflatten(0, (4, -1))[:, 0], wanted)
        row = Row(RowKey((), 0, None), 0, uuid.uuid4(), None, {}, 0, 1)
        tokens = LayerTokens(grid=(4, 8, 8), extent=(4, 16, 16))
        shares = shares_of_row(row, Run((), size=(4, 16, 16)), (4, 16, 16), tokens, regions, 1.0)
        torch.testing.assert_close(shares[0].unflatten(0, (4, -1))[:, 0], wanted)
        painting = Painting(regions, torch.eye(3)[:, :2]).fitted(torch.zeros(1, 2, 4, 16, 16))
        torch.testing.assert_close(painting[0, :, :, 0, 0].T, wanted)

    def test_windows_of_a_batch_have_their_pictures_masks(self, model: Any) -> None:
        left, right = boxes()
        regions = two_regions((torch.cat([left, right] * 3), torch.cat([right, left] * 3)))
        x, prompt = tiny.noise(16, 16, batch=6), marked(tiny.prompt(1), regions, control=ALWAYS)
        wanted = tiny.sample(steered(model), x, 5.0, 2, prompt)
        got = tiny.sample(steered(tiny.windowed(model, 4, 3, 0)), x, 5.0, 2, prompt)
        assert_alike(got, wanted, 1e-4)

    def test_windows_of_a_batch_of_videos(self) -> None:
        """Every video has all frames' masks."""
        wan = dit.build("wan")
        masks = (torch.eye(2)[:, :, None, None].expand(2, 2, 16, 16)[:, i] for i in range(2))
        prompt = marked(dit.prompt(1), Regions(tuple(Region(mask, "x") for mask in masks)), ((1,), (2,)))
        x = dit.noise("wan", 16, 16, frames=2, batch=3)
        wanted = dit.sample(steered(wan), x, positive=prompt, steps=1)
        got = dit.sample(steered(tiny.windowed(wan, 2, 1, 0)), x, positive=prompt, steps=1)
        assert_alike(got, wanted, 1e-3)

    def test_a_longer_prompt_keeps_its_phrases(self, model: Any, pulls: list) -> None:
        """Another node has put 77 more tokens behind the caption; the negative prompt is as long as both."""
        (features, options), = marked(tiny.prompt(1), two_regions(), control=ALWAYS)  # fmt: skip
        longer = [[torch.cat([features, features], dim=1), options]]
        tiny.sample(steered(model), tiny.noise(16, 16), 5.0, 1, longer, tiny.prompt(2, tokens=154))
        words = [keys[0] for _, keys in pulls if keys.shape[1] == 154]
        assert words
        for keys in words:
            for region, places in enumerate(PLACES):
                assert keys[:, region].nonzero().flatten().tolist() == list(places)


class TestGuiders:
    """What is positive says the guider, not the order in which it evaluates."""

    @staticmethod
    def changed(model: Any, patched: Any, run: Any) -> dict[int, bool]:
        """Which cond lists the first evaluation answers otherwise than without regions."""
        outputs = []
        for chosen, with_marks in ((model, False), (patched, True)):
            with tiny.watching(model, "") as calls:
                run(chosen, with_marks)
            outputs.append({chunk: out for call in calls[:1] for chunk, out in zip(call["chunks"], call["output"])})
        return {chunk: bool((outputs[0][chunk] - outputs[1][chunk]).abs().max() > 1e-4) for chunk in outputs[0]}

    def test_two_scales_of_the_hosts(self, model: Any) -> None:
        def run(chosen: Any, with_marks: bool) -> None:
            positive = marked(tiny.prompt(1), two_regions(), control=ALWAYS) if with_marks else tiny.prompt(1)
            guider = Guider_DualCFG(chosen)
            guider.set_conds(positive, tiny.prompt(3), tiny.prompt(2))
            guider.set_cfg(3.0, 2.0)
            tiny.sample_with(guider, tiny.noise(16, 16), steps=1)

        assert self.changed(model, steered(model), run) == {0: False, 1: False, 2: True}

    def test_style_beside_regions(self, model: Any) -> None:
        """Text and text with style are both steered, so style's part has nothing of the regions in it."""

        def run(chosen: Any, with_marks: bool) -> None:
            styled, text = (
                marked(p, two_regions(), control=ALWAYS) if with_marks else p for p in (tiny.prompt(1), tiny.prompt(3))
            )
            both = FoveaStyleGuidance.execute(chosen, text, 2.0, 0.0, 1.0).result[0]
            tiny.sample(both, tiny.noise(16, 16), 4.0, 1, styled)

        assert self.changed(model, steered(model), run) == {0: True, 1: False, 2: True}

    def test_the_hosts_copies_are_not_steered(self, model: Any, pulls: list) -> None:
        """A prompt with an area lies in the other lists too, with its marks and their words."""
        positive = [*tiny.prompt(4), *marked(tiny.prompt(1, area=(16, 8, 0, 0)), two_regions(), control=ALWAYS)]
        with tiny.watching(model, "") as calls:
            tiny.sample(steered(model), tiny.noise(16, 16), 5.0, 1, positive)
        assert sum(len(call["chunks"]) for call in calls) == 4  # whole and area, positive and negative
        assert pulls and all(queries.shape[0] == 1 for queries, _ in pulls)
        grids = [queries.shape[1] for queries, keys in pulls if keys.shape[1] == 77]
        with tiny.watching(model, "") as calls:
            pulls.clear()
            alone = marked(tiny.prompt(1, area=(16, 8, 0, 0)), two_regions(), control=ALWAYS)
            tiny.sample(steered(model), tiny.noise(16, 16), 1.0, 1, alone)
        assert grids == [queries.shape[1] for queries, keys in pulls if keys.shape[1] == 77]
