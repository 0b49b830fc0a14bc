"""Names of regions in every script: drawn where the system has a font, else told by their number."""

from __future__ import annotations

import pytest
import torch
from PIL import ImageFont
from region_steps import boxes

from fovea.nodes.region_sources import FoveaRegion, FoveaRegionPreview
from fovea.nodes.ui import charts, fonts, heat_maps

SCRIPTS = {
    "Chinese": "\u7ea2\u8272\u72d0\u72f8",
    "Japanese": "\u8d64\u3044\u72d0\u3068\u661f",
    "Arabic": "\u062b\u0639\u0644\u0628 \u0623\u062d\u0645\u0631",
    "emoji": "\U0001f98a\U0001f31f",
}


def preview(first: str, second: str) -> torch.Tensor:
    regions = FoveaRegion.execute(boxes()[0], first, 1.0, "").result[0]
    regions = FoveaRegion.execute(boxes()[1], second, 1.0, "", regions=regions).result[0]
    return FoveaRegionPreview.execute(regions, 256, 256, "as given").result[0]


def ink(text: str, font: fonts.Font) -> bytes:
    return bytes(font.getmask(text))


@pytest.mark.parametrize("script", list(SCRIPTS))
def test_a_name_is_drawn_or_told_by_its_number(script: str) -> None:
    text, font = fonts.drawable(SCRIPTS[script], "7", 13)
    if text == "7":
        assert ink("7", font), "the usual font"
    else:
        letters = [letter for letter in text if not letter.isspace()]
        assert len({ink(letter, font) for letter in letters}) == len(set(letters)), "no two letters are the same box"


@pytest.mark.parametrize(
    "names", [list(SCRIPTS.values())[:2], ["a red\nstar", "x" * 500], ["", "\u00e9 \u00fc \u00df"]]
)
def test_previews_of_any_names(names: list[str]) -> None:
    assert torch.isfinite(preview(*names)).all()


def test_latin_letters_keep_the_usual_font() -> None:
    text, font = fonts.drawable("a red star", "7", 13)
    assert text == "a red star" and ink(text, font) == ink(text, ImageFont.load_default(13))


def test_a_font_of_the_system_is_taken_where_ours_lacks_a_letter() -> None:
    """DejaVu, which most Linux systems have, knows Greek and Cyrillic; Pillow's own font may not."""
    try:
        ImageFont.truetype("DejaVuSans.ttf", 13)
    except OSError:
        pytest.skip("no DejaVu here")
    text, font = fonts.drawable("\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u043b\u0438\u0441\u0430", "7", 13)
    assert text == "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u043b\u0438\u0441\u0430" and ink(text, font)


def test_charts_and_sheets_take_any_title() -> None:
    tile = torch.rand(32, 32, 3)
    assert heat_maps.sheet([(SCRIPTS["Chinese"], [tile])], [SCRIPTS["Arabic"]]).shape[2] == 3
    assert charts.bars([1.0, 2.0], ["1", "2"], f"score: {SCRIPTS['Japanese']}").shape[2] == 3
