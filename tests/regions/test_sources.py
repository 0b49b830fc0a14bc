"""Where regions come from: masks, flat colors, boxes; what the preview shows; and errors that name the cure."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fovea.guidance.regions import sources
from fovea.guidance.regions.masks import Regions
from fovea.nodes.region_painter import FoveaRegionPainter
from fovea.nodes.region_sources import (
    FoveaCropRegions,
    FoveaRegion,
    FoveaRegionPreview,
    FoveaRegionsFromBoxes,
    FoveaRegionsFromColors,
    lost_regions,
)


def region(mask: Tensor, prompt: str = "a star", regions: Regions | None = None) -> Regions:
    return FoveaRegion.execute(mask, prompt, 1.0, "", regions).result[0]


class TestRegion:
    def test_chains_in_order(self) -> None:
        first = region(torch.ones(1, 8, 8), "a")
        second = region(torch.zeros(8, 8), " b ", first)
        assert [r.prompt for r in second.items] == ["a", "b"] and len(first) == 1
        assert second.items[1].mask.shape == (1, 8, 8)

    def test_stays_itself_whatever_it_is_made_into(self) -> None:
        made, other = region(torch.ones(1, 8, 8)), region(torch.ones(1, 8, 8))
        first, (cropped,) = made.items[0], made.cropped((0, 0, 4, 4), (8, 8)).items
        for same in (replace(first, prompt="b"), cropped, copy.deepcopy(first)):
            assert same is not first and same.origin == first.origin
        assert other.items[0].origin != first.origin

    def test_has_its_own_mask(self) -> None:
        mask = torch.ones(1, 4, 4)
        made = region(mask)
        mask.zero_()
        assert made.items[0].mask.min() == 1

    def test_too_many(self) -> None:
        regions = None
        for _ in range(64):
            regions = region(torch.ones(1, 2, 2), regions=regions)
        with pytest.raises(ValueError, match="65 regions are too many, 64 at most"):
            region(torch.ones(1, 2, 2), regions=regions)

    def test_broken_masks_do_not_spread(self) -> None:
        mask = torch.tensor([[[float("nan"), 2.0], [-1.0, float("inf")]]])
        assert region(mask).canvas()[0, 0].tolist() == [[0, 1], [0, 1]]


class TestColors:
    def test_soft_edges_and_noise_leave_no_holes(self) -> None:
        picture = torch.zeros(1, 16, 16, 3)
        picture[:, :, :8] = torch.tensor([1.0, 0, 0])
        picture[:, :, 8:] = torch.tensor([0, 0, 1.0])
        picture[:, :, 7:9] = 0.5 * torch.tensor([1.0, 0, 0]) + 0.5 * torch.tensor([0, 0, 1.0])
        picture += 0.05 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
        (made,) = FoveaRegionsFromColors.execute(picture, "#ff0000: left\n\n#0000FF: right", 1.0, 1.0).result
        assert [r.prompt for r in made.items] == ["left", "right"]
        assert torch.equal(made.canvas().sum(dim=1), torch.ones(1, 16, 16))
        assert made.items[0].mask[..., :7].min() == 1 and made.items[1].mask[..., 9:].min() == 1

    def test_tolerance_0_keeps_exactly_the_colors_that_are_listed(self) -> None:
        """Painted in the pack's own, in a picture large enough to be measured in another way by torch."""
        listed = sources.PALETTE[:5]
        picture = torch.tensor([sources.rgb(color) for color in listed]).repeat_interleave(16, dim=0)[:, None]
        picture = picture.expand(80, 64, 3)[None].contiguous()
        lines = "\n".join(f"{color}: {color}" for color in listed)
        (made,) = FoveaRegionsFromColors.execute(picture, lines, 0.0, 1.0).result
        assert [float(r.mask.sum()) for r in made.items] == [16 * 64] * 5

    def test_a_large_picture_is_reduced_frame_by_frame(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As masks are: to means. Of a film no mask is ever there at its full size."""
        monkeypatch.setattr(sources, "MAX_SIDE", 4)
        picture = torch.zeros(3, 8, 8, 3)
        picture[1, :, :3] = picture[2] = torch.ones(3)
        assert sources.color_masks(picture, sources.parse_colors("#ffffff: snow"), 0.1).shape == (1, 3, 4, 4)
        (made,) = FoveaRegionsFromColors.execute(picture, "#ffffff: snow", 0.1, 1.0).result
        assert made.items[0].mask[:, 0].tolist() == [[0, 0, 0, 0], [1, 0.5, 0, 0], [1, 1, 1, 1]]

    def test_colors_that_are_not_listed(self) -> None:
        picture = torch.ones(2, 4, 4, 4)  # with transparency
        picture[0, :2, :, :3] = torch.tensor([1.0, 0, 0])
        (made,) = FoveaRegionsFromColors.execute(picture, "ff0000 = red", 0.3, 2.0).result
        assert made.items[0].mask.sum(dim=(1, 2)).tolist() == [8, 0] and made.items[0].strength == 2

    @pytest.mark.parametrize("channels", [1, 2])
    def test_gray_pictures(self, channels: int) -> None:
        """A mask as a picture, with transparency or without."""
        picture = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 3, 1).expand(1, 2, 3, channels)
        (made,) = FoveaRegionsFromColors.execute(picture, "#000000: night\n#ffffff: snow", 0.3, 1.0).result
        assert [r.mask[0].tolist() for r in made.items] == [[[1, 0, 0]] * 2, [[0, 0, 1]] * 2]

    def test_broken_pixels_are_nobodys(self) -> None:
        for count in (2, 40):  # torch measures more than 25 in another way
            picture = torch.zeros(1, count, 4, 3)
            picture[0, 0, 0, 1], picture[0, 0, 1] = float("nan"), float("inf")
            (made,) = FoveaRegionsFromColors.execute(picture, "#000000: a\n#ff0000: b", 1.0, 1.0).result
            wanted = torch.ones(count, 4)
            wanted[0, :2] = 0
            assert torch.equal(made.items[0].mask[0], wanted) and not made.items[1].mask.any()

    @pytest.mark.parametrize(
        "lines, message",
        [("red: a star", "Line 1 should look like"), ("#ff0000: a\n#gg0000: b", "Line 2"), ("  \n", "No colors"),
         ("#ff0000: a\n#FF0000: b", "listed twice")],
    )  # fmt: skip
    def test_wrong_lines(self, lines: str, message: str) -> None:
        with pytest.raises(ValueError, match=f"Regions from Colors: colors: {message}|{message}"):
            FoveaRegionsFromColors.execute(torch.zeros(1, 4, 4, 3), lines, 0.3, 1.0)


class TestBoxes:
    ELEMENTS = [{"type": "obj", "bbox": [250, 0, 1000, 500], "desc": "a star"}]
    BOXES = [[{"x": 0, "y": 64, "width": 128, "height": 192, "metadata": {"desc": "a star"}}]]

    @pytest.mark.parametrize("boxes", [ELEMENTS, BOXES, BOXES[0], BOXES[0][0], json.dumps(BOXES), json.dumps(ELEMENTS)])
    def test_every_form(self, boxes: object) -> None:
        (made,) = FoveaRegionsFromBoxes.execute(256, 256, "", 1.0, boxes=boxes).result
        mask = made.items[0].mask
        assert mask.shape == (1, 256, 256) and mask[0, 64:, :128].min() == 1 and mask.sum() == 192 * 128

    def test_prompts_take_the_place_of_descriptions(self) -> None:
        boxes = [self.ELEMENTS[0], {**self.ELEMENTS[0], "desc": "b"}]
        (made,) = FoveaRegionsFromBoxes.execute(64, 64, "\na heart\n", 1.0, boxes=boxes).result
        assert [r.prompt for r in made.items] == ["a star", "a heart"]

    def test_edges_count_in_part(self) -> None:
        box = sources.Box(0.125, 0.25, 0.625, 1.0, "")
        mask = sources.box_mask(box, 4, 4)[0]
        assert mask[2].tolist() == [0.5, 1, 0.5, 0] and mask[0].max() == 0

    @given(edges=st.tuples(*[st.floats(-1, 2)] * 4), width=st.integers(1, 40), height=st.integers(1, 40))
    @settings(max_examples=50, deadline=None)
    def test_any_box_is_a_mask(self, edges: tuple, width: int, height: int) -> None:
        left, right = sorted(edges[:2])
        top, bottom = sorted(edges[2:])
        mask = sources.box_mask(sources.Box(left, top, right, bottom, ""), width, height)
        assert mask.shape == (1, height, width) and mask.min() >= 0 and mask.max() <= 1
        inside = max(0.0, min(right, 1) - max(left, 0)) * max(0.0, min(bottom, 1) - max(top, 0))
        assert float(mask.mean()) == pytest.approx(inside, abs=1e-4)

    def test_large_pictures_need_no_large_masks(self) -> None:
        """64 boxes of the largest picture would be 64 GiB."""
        boxes = [{"bbox": [0, 0, 500, 1000], "desc": f"thing {i}"} for i in range(65)]
        (made,) = FoveaRegionsFromBoxes.execute(16384, 8192, "", 1.0, boxes=boxes[:64]).result
        assert made.items[0].mask.shape == (1, 512, 1024) and float(made.items[0].mask.mean()) == 0.5
        with pytest.raises(ValueError, match="65 regions are too many"):
            FoveaRegionsFromBoxes.execute(16384, 16384, "", 1.0, boxes=boxes)

    @pytest.mark.parametrize(
        "boxes, message",
        [("[1, 2", "no valid JSON"), ([{"x": 1}], "needs x, y, width and height"), (7, "as a list, got int"),
         ([{"bbox": [1, 2]}], "needs x, y")],
    )  # fmt: skip
    def test_wrong_boxes(self, boxes: object, message: str) -> None:
        with pytest.raises(ValueError, match=f"Regions from Boxes: boxes: .*{message}"):
            FoveaRegionsFromBoxes.execute(64, 64, "", 1.0, boxes=boxes)

    def test_no_boxes(self) -> None:
        assert len(FoveaRegionsFromBoxes.execute(64, 64, "", 1.0, boxes=[]).result[0]) == 0


class TestPreview:
    def test_shows_what_is_lost(self) -> None:
        thin = torch.zeros(1, 256, 256)
        thin[..., 20] = 1
        regions = region(thin, "a line", region(torch.ones(1, 64, 64), "a wall"))
        regions = region(torch.zeros(1, 8, 8), "nothing", regions)
        picture, same, report = FoveaRegionPreview.execute(regions, 256, 256, "share").result
        assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.min() >= 0 and picture.max() <= 1
        assert same.overlap == "share" and same.items == regions.items and regions.overlap == "top"
        assert "'a line' is too thin for layers of 4 x 4 tokens" in report and "'nothing' is empty" in report
        assert "a wall" not in report

    def test_any_size_and_no_regions(self) -> None:
        for width, height in ((16, 4096), (72, 64), (2048, 1152)):
            picture = FoveaRegionPreview.execute(region(torch.ones(1, 5, 9)), width, height, "as given").result[0]
            assert picture.isfinite().all()
        assert lost_regions(Regions(), 64, 64) == ""
        assert FoveaRegionPreview.execute(Regions(), 512, 512, "as given").result[0].shape[0] == 1

    def test_colors_are_where_the_regions_are(self) -> None:
        left = torch.zeros(1, 8, 8)
        left[..., :4] = 1
        picture = sources.region_picture(region(left))[0]
        assert torch.allclose(picture[0, 0], torch.tensor(sources.rgb(sources.PALETTE[0])))
        assert torch.allclose(picture[0, 7], torch.full((3,), 0.85))
        tile = sources.grid_picture(region(left), (2, 2), (8, 8))
        assert torch.allclose(tile, picture)


class TestLargeMasks:
    """No token grid is finer than 1024 pixels: a film's masks at full size would fill the memory for nothing."""

    def test_a_large_mask_is_reduced_to_means(self) -> None:
        mask = torch.zeros(2, 1536, 3072)
        mask[0, :, :1536], mask[1, 0] = 1, 1
        made = region(mask).items[0].mask
        assert made.shape == (2, 512, 1024)
        assert torch.equal(made[0], torch.cat([torch.ones(512, 512), torch.zeros(512, 512)], dim=1))
        assert torch.allclose(made[1, 0], torch.full((1024,), 1 / 3)) and made[1, 1:].max() == 0

    def test_smaller_ones_are_kept_and_copied(self) -> None:
        mask = torch.rand(1, 1024, 8)
        made = region(mask).items[0].mask
        assert torch.equal(made, mask) and made.data_ptr() != mask.data_ptr()

    def test_the_canvas_is_made_once(self) -> None:
        regions = region(torch.ones(1, 8, 8))
        assert regions.canvas() is regions.canvas()


def test_too_many_colors_are_refused_before_masks_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "color_masks", lambda *_: pytest.fail("masks that nobody can use"))
    colors = "\n".join(f"#0000{n:02x}: a star" for n in range(65))
    with pytest.raises(ValueError, match="Regions from Colors"):
        FoveaRegionsFromColors.execute(torch.zeros(1, 8, 8, 3), colors, 0.1, 1.0)


def test_broken_masks_of_a_painting_are_black() -> None:
    """Where nothing else is in a mask, the row has no place."""
    nan, inf = float("nan"), float("inf")
    masks = torch.tensor([[[nan, inf], [-inf, 0.5]], [[nan, 0.0], [0.0, 0.0]]])
    painting = json.dumps({"regions": [{"prompt": "a"}, {"prompt": "b"}]})
    regions, batch, preview, *_ = FoveaRegionPainter.execute(64, 64, masks=masks, painting=painting).result
    assert [r.prompt for r in regions.items] == ["a"] and preview.isfinite().all()
    assert batch.tolist() == [[[0, 1], [0, 0.5]], [[0, 0], [0, 0]]]


class TestCrop:
    @given(
        size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
        picture=st.tuples(st.integers(1, 400), st.integers(1, 400)),
        start=st.tuples(st.integers(-200, 400), st.integers(-200, 400)), seed=st.integers(0, 99),
        side=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    )  # fmt: skip
    @settings(max_examples=80, deadline=None)
    def test_is_the_mean_of_what_lies_there(
        self, size: tuple[int, int], picture: tuple[int, int], start: tuple[int, int], side: tuple[int, int], seed: int
    ) -> None:
        """Against means over the crop's cells, pixel by pixel of the picture."""
        mask = torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))
        (part,) = FoveaCropRegions.execute(region(mask), *start, *side, *picture).result
        got = part.items[0].mask[0]
        assert got.shape == tuple(max(1, round(n * s / w)) for n, s, w in zip(size, side[::-1], picture[::-1]))
        assert got.min() >= 0 and got.max() <= 1 + 1e-6
        y, x = (seed * 7) % got.shape[0], (seed * 5) % got.shape[1]
        samples = 2000
        ys = start[1] + (y + (torch.arange(samples) + 0.5) / samples) * side[1] / got.shape[0]
        xs = start[0] + (x + (torch.arange(samples) + 0.5) / samples) * side[0] / got.shape[1]
        ys, xs = (at[(at >= 0) & (at < whole)] for at, whole in ((ys, picture[1]), (xs, picture[0])))
        rows, columns = (ys * size[0] / picture[1]).long(), (xs * size[1] / picture[0]).long()
        wanted = mask[0][rows][:, columns].mean() if len(rows) and len(columns) else torch.tensor(0.0)
        assert float(got[y, x]) == pytest.approx(float(wanted), abs=5e-3)

    def test_a_tile_has_its_own_part(self) -> None:
        left = torch.zeros(1, 64, 64)
        left[..., :32] = 1
        whole = region(1 - left, "a circle", region(left, "a star"))
        (tile,) = FoveaCropRegions.execute(whole, 0, 0, 256, 256, 512, 512).result
        assert torch.equal(tile.canvas(), torch.stack([torch.ones(32, 32), torch.zeros(32, 32)])[None])
        assert [each.prompt for each in tile.acting.items] == ["a star"], "the other one has nothing there"
