"""Boxes as nodes, detectors and language models write them: what is read, and errors that help."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fovea.guidance.regions.box_formats import parse_boxes
from fovea.nodes.region_sources import FoveaRegionsFromBoxes

KEYS = [
    "bbox", "box", "box_2d", "x", "y", "width", "height", "desc", "label", "metadata", "bboxes", "labels", "items",
    "elements", "type", "text", "bbox_format", "color_palette", "compositional_deconstruction",
]  # fmt: skip


AROUND = [
    "{}", "```json\n{}\n```", "A layout:\n```\n{}\n```\nDone.", "{}\nHope this helps!", "Layout: {}",
    "Here you are:\n{}\nHope this helps!", "[1] A layout, {as asked}, [[of it]]: {} [end]", '{"mood": "calm"} {}',
    'A "```" begins code. {}',
]  # fmt: skip


class TestForms:
    @pytest.mark.parametrize(
        "data",
        [[{"bbox": [250, 0, 1000, 500], "desc": "a star"}], [{"box_2d": [250, 0, 1000, 500], "label": "a star"}],
         [{"box": [0, 0.25, 0.5, 1], "prompt": "a star"}], [{"box": ["0%", "25%", "50%", "100%"], "label": "a star"}],
         {"regions": [{"box": [0, 0.25, 0.5, 1], "description": "a star"}]},
         {"<OD>": {"bboxes": [[0, 50, 100, 200]], "labels": ["a star"]}},
         [[{"x": 0.0, "y": 50.0, "width": 100.0, "height": 150.0, "label": "a star", "score": 0.9}]],
         [{"type": "text", "text": "a star", "bbox": [250, 0, 1000, 500], "desc": "a star"}]],
    )  # fmt: skip
    @pytest.mark.parametrize("around", AROUND)
    def test_every_form(self, data: Any, around: str) -> None:
        (box,) = parse_boxes(around.replace("{}", json.dumps(data)), 200, 200)
        assert box[:4] == (0, 0.25, 0.5, 1) and box.prompt == "a star"

    @pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "Layout: {} Done."])
    @pytest.mark.parametrize(
        "text",
        ['[{"bbox": [0, 0, 9, 9], "desc": "a"}, {"bbox": [0, 0,', '[{"bbox": [0, 0, 9, 9],}, {"bbox": [0, 0, 9, 9]}]',
         '{"elements": [{"bbox": [0, 0, 9, 9]}, {"bbox": [0, 0, 9 9]}]}'],
    )  # fmt: skip
    def test_a_part_of_a_broken_layout_is_none(self, text: str, around: str) -> None:
        with pytest.raises(ValueError, match=r"^The boxes are no valid JSON: .*char \d+"):
            parse_boxes(around.replace("{}", text), 64, 64)

    @pytest.mark.parametrize("between", ["\n", ", ", " "])
    def test_boxes_that_are_no_list_are_not_dropped(self, between: str) -> None:
        text = between.join(json.dumps({"bbox": [0, 0, 9, 9], "desc": word}) for word in "ab")
        with pytest.raises(ValueError, match="Write one list of all boxes"):
            parse_boxes(text, 64, 64)

    def test_a_list_on_a_thousand_lines_is_told_as_one_on_two(self) -> None:
        lines = "\n".join(json.dumps({"bbox": [0, 0, 500, 500], "desc": f"star {n}"}) for n in range(1500))
        with pytest.raises(ValueError, match="there is more behind the first box"):
            parse_boxes(lines, 64, 64)

    def test_words_to_write_follow_in_quotes(self) -> None:
        entries = [{"type": "text", "text": "OPEN", "desc": "a sign", "bbox": [0, 0, 9, 9]},
                   {"type": "text", "text": "OPEN", "desc": "", "bbox": [0, 0, 9, 9]},
                   {"x": 0, "y": 0, "width": 9, "height": 9, "metadata": {"type": "text", "text": "A", "desc": "B"}},
                   {"type": "text", "text": "OPEN\ntill 9", "desc": 'a "till 9" sign', "bbox": [0, 0, 9, 9]},
                   {"label": "text", "text": "A\n\nB", "caption": 'A', "bbox": [0, 0, 9, 9]},
                   ]  # fmt: skip
        wanted = ['a sign "OPEN"', '"OPEN"', 'B "A"', 'a "till 9" sign "OPEN"', "text"]
        assert [box.prompt for box in parse_boxes(entries, 64, 64)] == wanted
        (moss,) = parse_boxes({"items": entries[-1:], "bbox_format": "yxyx"}, 64, 64)
        assert moss.prompt == 'A "B"'

    def test_the_first_color_of_a_palette(self) -> None:
        entries = [{"bbox": [0, 0, 9, 9], "color_palette": ["#FF0000", "#00FF00"]},
                   {"x": 0, "y": 0, "width": 9, "height": 9, "metadata": {"palette": ["#0000ff"]}},
                   {"bbox": [0, 0, 9, 9], "color_palette": ["red"]}]  # fmt: skip
        assert [box.color for box in parse_boxes(entries, 64, 64)] == [(1, 0, 0), (0, 0, 1), None]
        made = FoveaRegionsFromBoxes.execute(64, 64, "", 1.0, boxes=entries).result[0]
        assert made.items[0].color == (1, 0, 0)

    def test_a_bbox_may_pass_the_edge_by_a_little(self) -> None:
        (box,) = parse_boxes([{"bbox": [0, 0, 1001, 1005]}], 64, 64)
        assert box[:4] == (0, 0, 1.005, 1.001)

    @pytest.mark.parametrize(
        "data, message",
        [([{"bbox": [0.1, 0.2, 0.5, 0.9]}], "Box 1: a bbox counts from 0 to 1000. Fractions are written as box"),
         ([{"bbox": [0, 0, 9, 9]}, {"box_2d": [100, 200, 1024, 9]}], "Box 2: a bbox counts .* Pixels are written as x"),
         ([{"box": [10, 20, 50, 90]}], "Box 1 needs x, y"), ([{"box": ["10%", 0.2, 0.5, 0.9]}], "Box 1 needs"),
         ([{"bbox": [0, 0, 9, 9]}, "left"], "Box 2 needs"), ([{"bbox": [0, 0, True, 9]}], "Box 1 needs"),
         ([{"bbox": [0, 0, float("nan"), 9]}], "Box 1 needs"), ({"bboxes": [[1, 2]], "labels": []}, "Box 1 of bboxes"),
         ({"items": [], "bbox_coord_space": "normalized"}, "only 'abs_centralized' and 'yxyx' can be read"),
         ({"items": 7}, "Box 1 needs"), ([{"bbox": [10**400, 0, 1, 1]}], "Box 1 needs")],
    )  # fmt: skip
    def test_wrong_boxes(self, data: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_boxes(data, 64, 64)

    VALUES = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(
            st.sampled_from(KEYS), inner, max_size=5
        ),
        max_leaves=20,
    )  # fmt: skip

    @given(data=VALUES)
    @settings(max_examples=300, deadline=None)
    def test_nonsense_is_only_ever_an_error_with_words(self, data: Any) -> None:
        for given_data in (data, json.dumps(data)):
            try:
                boxes = parse_boxes(given_data, 64, 48)
            except ValueError as why:
                assert len(str(why)) > 20
            else:
                assert all(box.left <= box.right and box.top <= box.bottom for box in boxes)


class TestMasks:
    BOXES = [[{"x": 0, "y": 0, "width": 32, "height": 32, "score": 0.9},
              {"x": 32, "y": 0, "width": 32, "height": 64, "score": 0.8}]]  # fmt: skip

    def test_masks_in_place_of_rectangles(self) -> None:
        """As SAM3 Detect gives them: a mask per box, boxes without labels."""
        masks = torch.zeros(2, 64, 64)
        masks[0, :8], masks[1, 8:] = 1, 1
        for boxes in (self.BOXES, [[]], "", None):
            made = FoveaRegionsFromBoxes.execute(64, 64, "a cat\na dog", 1.0, None, masks, boxes=boxes).result[0]
            assert [region.prompt for region in made.items] == ["a cat", "a dog"]
            assert all(torch.equal(region.mask, mask[None]) for region, mask in zip(made.items, masks))
        assert len(FoveaRegionsFromBoxes.execute(64, 64, "", 1.0, None, masks[:0], boxes=[[]]).result[0]) == 0

    def test_nothing_at_all_is_told(self) -> None:
        with pytest.raises(ValueError, match="Regions from Boxes: connect boxes, or masks"):
            FoveaRegionsFromBoxes.execute(64, 64, "", 1.0)

    def test_as_many_masks_as_boxes(self) -> None:
        with pytest.raises(ValueError, match="masks: there are 1 of them and 2 boxes"):
            FoveaRegionsFromBoxes.execute(64, 64, "", 1.0, None, torch.ones(64, 64), boxes=self.BOXES)
