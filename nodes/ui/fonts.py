"""Fonts for texts that people wrote, in whatever script."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# By what they cover, as systems name their files: Linux, Windows, macOS. Pillow looks in the system's font folders.
SYSTEM_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "NotoSansSC-Regular.ttf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "msyh.ttc", "simsun.ttc", "meiryo.ttc", "msgothic.ttc",
    "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf",
    "NotoSansArabic-Regular.ttf", "NotoNaskhArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf",
)  # fmt: skip
_NO_LETTER = "\U0010fffe"  # not a character: every font draws its sign for what it lacks


def drawable(text: str, instead: str, size: int) -> tuple[str, Font]:
    """A text in one line and a font that has its letters; where no font of the system has them, `instead` and the
    usual font."""
    text = " ".join(text.split())
    for name in ("", *SYSTEM_FONTS):
        font = _load(name, size)
        if font is not None and all(_has(name, size, letter) for letter in dict.fromkeys(text)):
            return text, font
    return instead, ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _load(name: str, size: int) -> Font | None:
    """Pillow's own font for "", a font of the system otherwise, None where it has none of that name."""
    if not name:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, size: int, letter: str) -> bool:
    font = _load(name, size)
    if letter.isspace() or font is None:
        return font is not None
    drawn, lacking = (font.getmask(each) for each in (letter, _NO_LETTER))
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)
