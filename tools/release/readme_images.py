"""The README's pictures: `python -m tools.release.readme_images`, from what `make demo`, `make browser-test` and
`tools.studies.generator.quality` have left in output/."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..comfy.host import ROOT

FOLDER = ROOT / "docs" / "images"
TILE, GAP, LINE = 192, 6, 15
INK, PAPER = (40, 40, 44), (250, 250, 248)


def grid(rows: list[list[Image.Image]], titles: list[str], captions: list[str] | None = None) -> Image.Image:
    """Rows of pictures, a title before each row or a caption under each picture."""
    wrapped = [textwrap.wrap(caption, 33) for caption in captions or []]
    below = max(map(len, wrapped), default=0) * LINE + GAP
    above = LINE + GAP if titles else 0
    height = len(rows) * (above + TILE + below) + GAP
    sheet = Image.new("RGB", (len(rows[0]) * (TILE + GAP) + GAP, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for r, row in enumerate(rows):
        y = GAP + r * (above + TILE + below)
        if titles:
            draw.text((GAP, y), titles[r], INK, font)
        for c, picture in enumerate(row):
            x = GAP + c * (TILE + GAP)
            sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y + above))
            if captions:
                text = "\n".join(wrapped[r * len(row) + c])
                draw.multiline_text((x, y + TILE + 4), text, INK, font, spacing=2)
    return sheet


def sag(demo: Path) -> Image.Image:
    """Four seeds with a caption, then four without any: above without guidance, below with."""
    graphs = ("sag_off_on", "sag_off_on_unconditional")
    rows: list[list[Image.Image]] = [
        [Image.open(path) for graph in graphs for path in sorted(demo.glob(f"{graph}_{half}_sag_[0-9].png"))[:3]]
        for half in ("without", "with")
    ]
    return grid(rows, ["without (three with a caption, three without)", "with Self-Attention Guidance, same seeds"])


def regions(demo: Path) -> Image.Image:
    """Four seeds without and with three boxes."""
    rows: list[list[Image.Image]] = [
        [Image.open(path) for path in sorted(demo.glob(f"regions_{half}_[0-9].png"))]
        for half in ("without_regions", "with_dense_diffusion")
    ]
    titles = ["a plain red star, a striped green heart and a plain blue circle",
              "the same seeds; star top left, heart top right, circle below"]  # fmt: skip
    return grid(rows, titles)


def unpicked(name: str, evaluation: Path) -> Image.Image:
    """The first eight pictures of a report set with their captions. name: of the report."""
    captions = [row["caption"] for row in json.loads((evaluation / f"{name}.json").read_text())["rows"][:8]]
    sheet = Image.open(evaluation / f"{name}.png")
    side = sheet.width // 8
    tiles = [sheet.crop((i * side, 0, (i + 1) * side, side)) for i in range(8)]
    return grid([tiles[:4], tiles[4:]], [], captions)


NODE = (596, 56, 964, 748)  # where the template's painter lies on the browser tests' screenshots


def painter(shots: Path) -> Image.Image:
    """The Region Painter in Nodes 2.0 and in the classic editor, side by side."""
    parts = [Image.open(shots / f"painter_{renderer}.png").convert("RGB").crop(NODE) for renderer in ("vue", "classic")]
    sheet = Image.new("RGB", (2 * parts[0].width + GAP, parts[0].height), (20, 20, 20))
    for i, part in enumerate(parts):
        sheet.paste(part, (i * (part.width + GAP), 0))
    return sheet


PICTURES: dict[str, tuple[Callable[[Path], Image.Image], str, str]] = {  # by whom, from which results, a file there
    "sag": (sag, "demo", "sag_off_on_without_sag_0.png"),
    "regions": (regions, "demo", "regions_without_regions_0.png"),
    "painter": (painter, "browser", "painter_vue.png"),
    "shapesworld": (partial(unpicked, "shapesworld"), "eval", "shapesworld.png"),
    "flow_transformer": (partial(unpicked, "dit_placed"), "eval", "dit_placed.png"),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (make, results, needed) in PICTURES.items():
        if (ROOT / "output" / results / needed).exists():
            make(ROOT / "output" / results).save(FOLDER / f"{name}.jpg", quality=88)
        else:
            print(f"{name}.jpg stays as it is: output/{results}/{needed} is missing")


if __name__ == "__main__":
    main()
