"""Color words: what a prompt says of a thing's color and of the background's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fovea.guidance.region_start import colors

RED, BLUE, WHITE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a plain red star", RED),
        ("A RED star", RED),
        ("a red star on a blue sea", RED),
        ("light red", (1.0, 0.5, 0.5)),
        ("a dark-blue door", (0.0, 0.0, 0.5)),
        ("pale blue sky", (0.5, 0.5, 1.0)),
        ("a golden ring", (1.0, 215 / 255, 0.0)),
        ("a grilled salmon on a plate", None),
        ("a bored man", None),
        ("", None),
    ],
)
def test_the_first_color_word_of_a_thing(prompt: str, wanted: colors.RGB | None) -> None:
    found = colors.named_in(prompt)
    assert (found is None) == (wanted is None)
    assert found is None or found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a red star on a white background", WHITE),
        ("a red star, white studio background, best quality", WHITE),
        ("a red star; the background is blue", BLUE),
        ("background: dark blue, a red star", (0.0, 0.0, 0.5)),
        ("a red star in the background", None),
        ("a red star", None),
    ],
)
def test_the_background_that_a_prompt_names(prompt: str, wanted: colors.RGB | None) -> None:
    assert colors.background_of(prompt) == wanted


@pytest.mark.parametrize("text", ["#0000ff", "#00f", "blue", "Blue ", "rgb(0, 0, 255)"])
def test_what_people_write_for_a_color(text: str) -> None:
    assert colors.parse(text) == BLUE


@given(st.text(max_size=40))
def test_any_text_is_a_color_or_says_what_one_looks_like(text: str) -> None:
    try:
        found = colors.parse(text)
    except ValueError as why:
        assert "#dc2626" in str(why)
    else:
        assert all(0 <= value <= 1 for value in found)
