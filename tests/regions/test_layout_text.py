"""Places in words: what is understood, and errors that help."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fovea.guidance.regions.box_formats import parse_boxes
from fovea.guidance.regions.layout_text import parse_layout, parse_place
from fovea.nodes.region_layouts import FoveaRegionsFromText

T, Q = 1 / 3, 1 / 4

PLACES = {
    "left": (0, 0, 1 / 2, 1),
    "the right side": (1 / 2, 0, 1, 1),
    "left third": (0, 0, T, 1),
    "right two thirds": (T, 0, 1, 1),
    "two thirds on the right": (T, 0, 1, 1),
    "bottom 1/4": (0, 3 / 4, 1, 1),
    "upper 30%": (0, 0, 1, 0.3),
    "lower 30 percent": (0, 0.7, 1, 1),
    "Top-Left": (0, 0, 1 / 2, 1 / 2),
    "top left quarter": (0, 0, 1 / 2, 1 / 2),
    "in the bottom right corner of the picture": (1 / 2, 1 / 2, 1, 1),
    "top left third": (0, 0, T, T),
    "left third, top half": (0, 0, T, 1 / 2),
    "left quarter": (0, 0, Q, 1),
    "center": (Q, Q, 3 / 4, 3 / 4),
    "top center": (Q, 0, 3 / 4, 1 / 2),
    "middle left": (0, Q, 1 / 2, 3 / 4),
    "top center third": (T, 0, 2 * T, T),
    "center middle 20%": (0.4, 0.4, 0.6, 0.6),
    "middle column": (T, 0, 2 * T, 1),
    "middle third row": (0, T, 1, 2 * T),
    "left column": (0, 0, T, 1),
    "middle half column": (Q, 0, 3 / 4, 1),
    "column 2 of 3": (T, 0, 2 * T, 1),
    "row 2 of 4": (0, Q, 1, 1 / 2),
    "row 1 of 2, column 3 of 3": (2 * T, 0, 1, 1 / 2),
    "0.1,0.2,0.5,0.9": (0.1, 0.2, 0.5, 0.9),
    "box [0.1, 0.2, 0.5, 0.9]": (0.1, 0.2, 0.5, 0.9),
    "10% 20% 50% 90%": (0.1, 0.2, 0.5, 0.9),
    "background": (0, 0, 1, 1),
    "the whole picture": (0, 0, 1, 1),
}
WORDS = [
    "left", "right", "top", "bottom", "upper", "center", "middle", "third", "half", "two", "1/3", "30%", "column",
    "row", "2", "of", "3", "quarter", "corner", "0.5", ",", "-", "x", "whole", "7/2", "-1", "9999%", "columns", "grid",
]  # fmt: skip


def edges(box: Any) -> tuple[float, ...]:
    return tuple(box[:4])


class TestPlaces:
    @pytest.mark.parametrize("where", PLACES)
    def test_places(self, where: str) -> None:
        (box,) = parse_layout(f"{where}: a lamp", 64, 64)
        assert edges(box) == pytest.approx(PLACES[where]) and box.prompt == "a lamp"

    @pytest.mark.parametrize(
        "where, message",
        [("leftish", "'leftish' is no place. Possible are: left, right third"), ("left right", "two sides at once"),
         ("middle third", "may be a column or a row"), ("0.1,0.2,0.5", "a box has four numbers"),
         ("10,20,50,90", "a box has four numbers"), ("0.5,0.2,0.1,0.9", "in this order"), ("third", "no such place"),
         ("column 4 of 3", "count from 1 to 3"), ("column 1 of 0", "count from 1 to 0"),
         ("top column", "no such place"), ("column 1 of 2 column 2 of 2", "one column and one row"),
         ("left 130%", "at most all"),
         ("left 0%", "more than nothing"), ("left 1/0", "more than nothing"),
         ("left third half", "once for every side"),
         ("center center center", "no such place"), ("two left", "no such place"), ("the", "no such place")],
    )  # fmt: skip
    def test_wrong_places(self, where: str, message: str) -> None:
        with pytest.raises(ValueError, match=f"Line 2, .*: .*{message}"):
            parse_layout(f"left: a lamp\n{where}: a chair", 64, 64)

    @given(words=st.lists(st.sampled_from(WORDS), max_size=7))
    @settings(max_examples=400, deadline=None)
    def test_any_words_are_a_place_or_a_helpful_error(self, words: list[str]) -> None:
        try:
            (left, right), (top, bottom) = parse_place(" ".join(words))
        except ValueError as why:
            assert len(str(why)) > 20
        else:
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1

    @given(count=st.integers(1, 12), data=st.data())
    @settings(max_examples=50, deadline=None)
    def test_columns_are_those_of_the_list(self, count: int, data: st.DataObject) -> None:
        """Two ways to say the same."""
        at = data.draw(st.integers(1, count))
        (one,) = parse_layout(f"column {at} of {count}: a", 64, 64)
        listed = parse_layout(f"columns {count}: " + " | ".join("a" * count), 64, 64)
        assert edges(one) == pytest.approx(edges(listed[at - 1]))


class TestSeveral:
    def test_columns_rows_and_grids(self) -> None:
        boxes = parse_layout("columns 3: a | b | c\nrows: d | e\ngrid 2x3: f|g|h|i|j|k", 64, 64)
        assert "".join(box.prompt for box in boxes) == "abcdefghijk"
        assert edges(boxes[1]) == pytest.approx((T, 0, 2 * T, 1)) and edges(boxes[4]) == (0, 0.5, 1, 1)
        assert edges(boxes[7]) == pytest.approx((2 * T, 0, 1, 0.5)) and edges(boxes[8]) == pytest.approx((0, 0.5, T, 1))

    def test_proportions(self) -> None:
        boxes = parse_layout("columns 1,2,1: a | b | c\nrows 3 1: d | e", 64, 64)
        assert [edges(box) for box in boxes[:3]] == [(0, 0, 0.25, 1), (0.25, 0, 0.75, 1), (0.75, 0, 1, 1)]
        assert edges(boxes[4]) == (0, 0.75, 1, 1)

    def test_places_may_stay_empty_and_lines_go_on(self) -> None:
        boxes = parse_layout("columns 3:\n| \n| b: the second\n\n| c", 64, 64)
        assert [box.prompt for box in boxes] == ["b: the second", "c"] and boxes[0].left == pytest.approx(T)

    @pytest.mark.parametrize(
        "line, message",
        [("columns 3: a | b", "columns 3 take 3 prompts with | between them, there are 2"), ("grid 2: a", "grid 2x3"),
         ("grid 0x2: a", "grid 2x3"), ("grid 2x2: a|b", "take 4 prompts"), ("rows 1,x: a|b", "rows 1,2,1"),
         ("rows 0,1: a|b", "rows 1,2,1"), ("columns 2.5: a|b", "columns 3"), ("columns: |", "no words behind")],
    )  # fmt: skip
    def test_wrong_numbers(self, line: str, message: str) -> None:
        with pytest.raises(ValueError) as error:
            parse_layout(line, 64, 64)
        assert str(error.value).startswith("Line 1, ") and message in str(error.value)

    @given(weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=9))
    @settings(max_examples=50, deadline=None)
    def test_they_share_the_picture_without_gaps(self, weights: list[float]) -> None:
        numbers = ",".join(f"{weight:.6f}" for weight in weights)
        boxes = parse_layout(f"rows {numbers}: " + "|".join("a" * len(weights)), 64, 64)
        assert boxes[0].top == 0 and boxes[-1].bottom == 1
        assert all(above.bottom == below.top for above, below in zip(boxes, boxes[1:]))
        assert boxes[0].bottom == pytest.approx(weights[0] / sum(weights), abs=1e-3)


class TestLines:
    def test_what_language_models_put_around(self) -> None:
        text = "Here is it:\n```\n# a living room\n1. **background**: a wall\n\n- left third: a lamp: lit\n```\nEnjoy!"
        assert [(box.prompt, box.right) for box in parse_layout(text, 64, 64)] == [("a wall", 1), ("a lamp: lit", T)]

    def test_errors_keep_the_line_numbers(self) -> None:
        with pytest.raises(ValueError, match="Line 4, 'nowhere: b'"):
            parse_layout("Here is it:\n```text\nleft: a\nnowhere: b\n```", 64, 64)

    @pytest.mark.parametrize(
        "text, message",
        [("", "no places: write a line such as"), ("# nothing", "no places"), ("a lamp", "Line 1.*should look like"),
         ("left:", "no words behind the colon"), (": a lamp", "should look like"), ("left: a\n\nx: b", "Line 3")],
    )  # fmt: skip
    def test_wrong_lines(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_layout(text, 64, 64)

    @given(text=st.text(alphabet=string.printable + "\u00e9\u0663\u2028", max_size=80))
    @example("[" * 5000)
    @example("{}")
    @example("columns " + "9" * 400 + ": a")
    @example("left " + "9" * 5000 + "%: a")
    @settings(max_examples=300, deadline=None)
    def test_nonsense_is_only_ever_an_error_with_words(self, text: str) -> None:
        try:
            assert isinstance(parse_layout(text, 64, 64), list)
        except ValueError as why:
            assert len(str(why)) > 20


def test_json_is_read_as_boxes_are() -> None:
    boxes = [{"box": [0, 0.25, 0.5, 1], "prompt": "a star"}, {"x": 20, "y": 0, "width": 44, "height": 64, "label": "b"}]
    for around in (
        "{}", "```json\n{}\n```", "A layout:\n```\n{}\n```\nDone.", "{}\nHope this helps!", "Layout: {}",
        "Here you are:\n{}\nHope this helps!", "- left [1]: a {lamp}\n{}",
    ):  # fmt: skip
        for data in (boxes, {"elements": boxes}):
            assert parse_layout(around.replace("{}", json.dumps(data)), 64, 64) == parse_boxes(boxes, 64, 64)
    assert parse_layout("Layout: " + json.dumps(boxes[0]), 64, 64) == parse_boxes(boxes[:1], 64, 64)


def test_brackets_in_lines_are_no_json() -> None:
    prompts = ["[masterpiece] a lamp", '{a|b}, a sign "[]"', '{"x": 1} on a screen', "[[a]] (b:1.2) [1, 2]", "[{]"]
    boxes = parse_layout("\n".join(f"left third: {prompt}" for prompt in prompts), 64, 64)
    assert [box.prompt for box in boxes] == prompts


def test_broken_json_is_no_line() -> None:
    with pytest.raises(ValueError, match="no valid JSON"):
        parse_layout('Layout: [{"bbox": [0, 0, 9, 9], "desc": "a"}, {"bbox": [0', 64, 64)


class TestNodes:
    def test_regions_lie_where_the_words_say(self) -> None:
        first = FoveaRegionsFromText.execute("background: a wall", 64, 32, 1.0).result[0]
        made = FoveaRegionsFromText.execute("left half: a lamp\nbottom half: a rug", 64, 32, 0.5, first).result[0]
        assert [region.prompt for region in made.items] == ["a wall", "a lamp", "a rug"]
        assert [region.strength for region in made.items] == [1.0, 0.5, 0.5]
        canvas = made.canvas()[0]
        assert canvas.shape == (3, 32, 64) and canvas[0, :16, 32:].min() == 1
        assert canvas[1, :16, :32].min() == 1 and canvas[2, 16:].min() == 1

    def test_errors_name_the_socket(self) -> None:
        with pytest.raises(ValueError, match="Regions from Text: text: Line 1, 'nowhere: a': 'nowhere' is no place"):
            FoveaRegionsFromText.execute("nowhere: a", 64, 64, 1.0)
        with pytest.raises(ValueError, match="Regions from Text: 65 regions are too many"):
            FoveaRegionsFromText.execute("rows: " + "|".join("a" * 65), 64, 64, 1.0)
