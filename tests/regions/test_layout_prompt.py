"""Regions as layouts for models that read boxes: the formats, and that boxes come back as they were."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fovea.guidance.regions import layout_prompt, sources
from fovea.guidance.regions.box_formats import parse_boxes
from fovea.guidance.regions.layout_prompt import Placed, cite, mask_box
from fovea.guidance.regions.masks import Regions
from fovea.guidance.regions.sources import Box, box_mask
from fovea.nodes.region_layouts import FORMATS, FoveaRegionsFromText, FoveaRegionsToLayoutPrompt
from fovea.nodes.region_sources import FoveaRegionsFromBoxes

STAR, CIRCLE = Box(0.0, 0.25, 0.5, 1.0, "a red star"), Box(0.6, 0.1, 1.0, 0.3, "a blue circle", (0.0, 0.0, 1.0))
PLACED = [Placed(1, STAR), Placed(2, CIRCLE)]


def regions_of(*boxes: Box, width: int = 200, height: int = 100) -> Regions:
    return Regions(tuple(sources.region(box_mask(b, width, height), b.prompt, color=b.color) for b in boxes))


OWN = {"MOSS-Image": {"width": 1024, "height": 512, "characters": ""}, "Ideogram 4": {"background": ""}}


def written(regions: Regions, prompt: str = "", kind: str = "FLUX 3", **more: Any) -> tuple[str, list[Any], str]:
    return FoveaRegionsToLayoutPrompt.execute(regions, prompt, {"format": kind, **OWN.get(kind, {}), **more}).result


# Coordinates of a thousand: what no format can tell apart is not asked of them.
corner = st.tuples(st.integers(0, 998), st.integers(0, 998))
shapes = st.tuples(corner, corner).map(
    lambda both: (min(both[0][0], both[1][0]), min(both[0][1], both[1][1]),
                  max(both[0][0], both[1][0]) + 2, max(both[0][1], both[1][1]) + 2)
)  # fmt: skip
words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters='"'), max_size=20).map(
    lambda text: f"a {' '.join(text.split())} thing".strip()
)
layouts = st.lists(st.tuples(shapes, words), min_size=1, max_size=5).map(
    lambda found: [Placed(n, Box(*(edge / 1000 for edge in shape), text)) for n, (shape, text) in enumerate(found, 1)]
)


class TestMaskBox:
    @given(shape=shapes, width=st.integers(8, 1024), height=st.integers(8, 1024))
    @settings(max_examples=100, deadline=None)
    def test_is_the_box_that_the_mask_was_made_of(self, shape: tuple[int, ...], width: int, height: int) -> None:
        """To a thousandth where it is two pixels wide, and to a pixel where it is thinner."""
        box = Box(*(edge / 1000 for edge in shape), "")
        found = mask_box(box_mask(box, width, height))
        for start, stop, size in ((0, 2, width), (1, 3, height)):
            near = 1e-5 if (box[stop] - box[start]) * size >= 2 else 1 / size
            assert found[start] == pytest.approx(box[start], abs=near)
            assert found[stop] == pytest.approx(box[stop], abs=near)

    def test_soft_edges_and_specks_below_half(self) -> None:
        mask = torch.zeros(1, 10, 10)
        mask[0, 2:8, 2:8] = torch.tensor([0.2, 0.4, 0.8, 0.8, 0.6, 0.3])  # of 0.8: about half at 3.9 and at 7.1
        mask[0, 0, 0] = 0.3
        found = mask_box(mask)
        assert (found.top, found.bottom) == (0.2, 0.8)
        assert found.left == pytest.approx(0.35, abs=0.05) and found.right == pytest.approx(0.71, abs=0.05)

    def test_the_first_mask_that_is_not_black(self) -> None:
        masks = torch.zeros(3, 8, 8)
        masks[1, :4], masks[2, 4:] = 1, 1
        assert mask_box(masks)[:4] == (0, 0, 1, 0.5)
        assert mask_box(masks[:1])[:4] == (0, 0, 0, 0)


class TestRoundTrips:
    @given(
        placed=layouts, size=st.tuples(st.integers(500, 2048), st.integers(500, 2048)),
        prompt=st.text(alphabet='[]{}",: 1a`\n', max_size=20).filter(lambda text: not re.search(r'\{\s*"', text)),
    )  # fmt: skip
    @example([Placed(1, STAR)], (512, 512), "[masterpiece] a room")
    @example([Placed(1, STAR)], (512, 512), "[1] ```{a}``` [[[")
    @settings(max_examples=100, deadline=None)
    def test_what_is_written_is_read_again(self, placed: list[Placed], size: tuple[int, int], prompt: str) -> None:
        """MOSS-Image counts in pixels: to half of one. The others are exact."""
        forms = {
            "elements": layout_prompt.elements(placed),
            "json": json.dumps(layout_prompt.elements(placed)),
            "flux": layout_prompt.flux3(prompt, placed),
            "ideogram": layout_prompt.ideogram4("a prompt", placed, "a wall"),
            "moss": layout_prompt.moss_image("a prompt", placed, *size),
        }
        for name, form in forms.items():
            boxes = parse_boxes(form, *size)
            assert [box.prompt for box in boxes] == [one.box.prompt for one in placed]
            for box, one in zip(boxes, placed):
                near = 1 / min(size) if name == "moss" else 1e-9
                assert box[:4] == pytest.approx(one.box[:4], abs=near), name

    @pytest.mark.parametrize("kind", FORMATS)
    def test_through_the_nodes(self, kind: str) -> None:
        regions = regions_of(STAR, CIRCLE, Box(0.2, 0.2, 0.4, 0.9, 'a sign "OPEN" over "till 9"'))
        text, elements, report = written(regions, "a wall", kind)
        for form in (text, elements):
            (again,) = FoveaRegionsFromBoxes.execute(1024, 512, "", 1.0, boxes=form).result
            assert [region.prompt for region in again.items] == [region.prompt for region in regions.items]
            for one, other in zip(regions.items, again.items):
                assert mask_box(other.mask)[:4] == pytest.approx(mask_box(one.mask)[:4], abs=2e-3)
        assert [region.color for region in again.items] == [None, (0, 0, 1), None] and not report

    @given(placed=layouts)
    @settings(max_examples=50, deadline=None)
    def test_elements_are_read_by_comfyui_as_they_were_written(self, placed: list[Placed]) -> None:
        """Its own reader and writer, there and back."""
        from comfy_extras.nodes_bounding_boxes import boxes_from_input, boxes_to_regions, build_elements

        elements = layout_prompt.elements(placed)
        drawn = boxes_to_regions(boxes_from_input(elements, 1000, 1000), 1000, 1000)
        assert build_elements(drawn) == elements


class TestFlux:
    def test_the_documented_form(self) -> None:
        """docs.bfl.ai/flux_3/flux3_image_bounding_boxes: caption, a space, rows of id, bbox, desc."""
        text = layout_prompt.flux3("A red star beside a blue circle.", PLACED)
        assert text == (
            'A red star <obj_1> beside a blue circle <obj_2>. [{"id": "obj_1", "bbox": [250, 0, 1000, 500], "desc": '
            '"a red star"}, {"id": "obj_2", "bbox": [100, 600, 300, 1000], "desc": "a blue circle"}]'
        )

    @pytest.mark.parametrize(
        "prompt, cited",
        [("", "a red star <obj_1> and a blue circle <obj_2>"),
         ("a painting.", "a painting, a red star <obj_1> and a blue circle <obj_2>"),
         ("near <obj_2> A  RED\nstar", "near <obj_2> A  RED\nstar <obj_1>"),
         ("a red starfish, a blue circle", "a red starfish, a blue circle <obj_2>, a red star <obj_1>")],
    )  # fmt: skip
    def test_words_cite_their_box(self, prompt: str, cited: str) -> None:
        assert cite(prompt, PLACED) == cited

    def test_each_mention_is_one_region(self) -> None:
        twins = [Placed(1, STAR._replace(prompt="a star")), Placed(2, STAR), Placed(3, STAR)]
        assert cite("a red star and a star", twins) == "a red star <obj_2> and a star <obj_1>, a red star <obj_3>"

    @pytest.mark.parametrize(
        "prompt, cited",
        [("a dog <obj_1> and a dog", "a dog <obj_1> and a dog <obj_2>, a red dog <obj_3>"),
         ("a dog and A  dog<obj_1>", "a dog <obj_2> and A  dog<obj_1>, a red dog <obj_3>"),
         ("a red dog <obj_3>, a hot dog <obj_1>", "a red dog <obj_3>, a hot dog <obj_1>, a dog <obj_2>"),
         ("a dog <obj_9> and a dog", "a dog <obj_9> and a dog <obj_1>, a dog <obj_2> and a red dog <obj_3>")],
    )  # fmt: skip
    def test_words_that_are_cited_already_are_taken(self, prompt: str, cited: str) -> None:
        dog = STAR._replace(prompt="a dog")
        assert cite(prompt, [Placed(1, dog), Placed(2, dog), Placed(3, STAR._replace(prompt="a red dog"))]) == cited

    def test_words_inside_of_cited_ones_are_taken(self) -> None:
        """As those inside of words that get their citation here."""
        both = [Placed(1, STAR), Placed(2, STAR._replace(prompt="red"))]
        assert cite("a red star <obj_1>", both) == cite("a red star", both) == "a red star <obj_1>, red <obj_2>"

    @given(placed=layouts, prompt=st.text(max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_every_box_is_cited_once_and_no_word_is_lost(self, placed: list[Placed], prompt: str) -> None:
        cited = cite(prompt, placed)
        assert all(cited.count(f"<{one.id}>") == 1 for one in placed)
        plain = re.sub(r" <obj_\d+>", "", cited)
        assert plain.startswith(prompt.strip().rstrip(".,"))


class TestMoss:
    def test_pixels_from_the_center_y_first(self) -> None:
        layout = json.loads(layout_prompt.moss_image("two shapes", PLACED, 1024, 512, frozenset({2})))
        assert layout == {
            "summary": {"caption": "two shapes"},
            "items": [
                {"label": "object", "caption": "a red star", "bbox": [-128, -512, 256, 0]},
                {"label": "character", "caption": "a blue circle", "bbox": [-205, 102, -102, 512]},
            ],
            "bbox_format": "yxyx", "bbox_coord_space": "abs_centralized",
        }  # fmt: skip

    def test_words_in_quotes_are_text(self) -> None:
        sign = [Placed(1, STAR._replace(prompt='a sign "OPEN" over "till 9"'))]
        (item,) = json.loads(layout_prompt.moss_image("", sign, 64, 64, frozenset({1})))["items"]
        assert item["label"] == "text" and item["text"] == "OPEN\ntill 9"

    @given(placed=layouts, width=st.integers(1, 600), height=st.integers(1, 600))
    @settings(max_examples=100, deadline=None)
    def test_boxes_are_inside_and_not_empty(self, placed: list[Placed], width: int, height: int) -> None:
        for item in json.loads(layout_prompt.moss_image("a", placed, width, height))["items"]:
            top, left, bottom, right = item["bbox"]
            assert -height / 2 - 1 <= top < bottom <= height / 2 + 1
            assert -width / 2 - 1 <= left < right <= width / 2 + 1

    def test_characters_that_are_not_there(self) -> None:
        with pytest.raises(ValueError, match="characters: there is no region 3, they count to 2"):
            written(regions_of(STAR, CIRCLE), "", "MOSS-Image", characters="1, 3")


class TestIdeogram:
    def test_the_documented_form(self) -> None:
        """The same caption as ComfyUI's Build JSON Prompt makes of the same elements."""
        from comfy_extras.nodes_json_prompt import BuildJsonPromptIdeogram

        elements = layout_prompt.elements(PLACED)
        (theirs,) = BuildJsonPromptIdeogram.execute(elements, {"style": "none"}, "two shapes", "a wall").result
        assert json.loads(layout_prompt.ideogram4("two shapes", PLACED, "a wall")) == theirs
        assert elements[1] == {
            "type": "obj", "bbox": [100, 600, 300, 1000], "desc": "a blue circle", "color_palette": ["#0000FF"]
        }  # fmt: skip

    def test_no_prompt_is_no_description(self) -> None:
        assert list(json.loads(layout_prompt.ideogram4(" ", PLACED))) == ["compositional_deconstruction"]


class TestNode:
    def test_what_is_left_out_is_reported_and_numbers_stay(self) -> None:
        regions = regions_of(STAR, Box(0, 0, 0.1, 0.1, ""), CIRCLE)
        items = (replace(regions.items[0], strength=0.0), *regions.items[1:])
        text, elements, report = written(Regions(items))
        assert text.startswith("a blue circle <obj_3> [") and len(elements) == 1
        assert report.splitlines() == [
            "'a red star' has strength 0: it is left out.",
            "region 2 has no prompt: a layout has nothing to say about its place.",
        ]

    @pytest.mark.parametrize("kind", ["FLUX 3", "MOSS-Image"])
    def test_no_regions_leave_the_prompt_as_it_is(self, kind: str) -> None:
        assert written(Regions(), " a star, \n", kind)[:2] == (" a star, \n", [])

    def test_from_words_to_a_layout(self) -> None:
        """Hidden parts count: the model is told where things are, not what is seen of them."""
        text = "background: a wall\ncolumns: a lamp | a chair"
        regions = FoveaRegionsFromText.execute(text, 64, 64, 1.0).result[0]
        _, elements, report = written(regions, "", "elements")
        boxes = [element["bbox"] for element in elements]
        assert boxes == [[0, 0, 1000, 1000], [0, 0, 1000, 500], [0, 500, 1000, 1000]] and not report
