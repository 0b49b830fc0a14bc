"""The help pages' pictures: `python -m tools.release.help_images`, cut out of docs/images and the templates' pictures.

Help pages are served from web/, so what they show has to lie there, small enough for a narrow panel.
"""

from __future__ import annotations

from PIL import Image

from ..comfy.host import ROOT

FOLDER = ROOT / "web" / "docs" / "images"
WIDTH, GAP, PAPER = 512, 6, (250, 250, 248)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the source
UNDER_TITLE: Box = (0, 70, 512, 512)  # of a template's picture: captions and pictures

PARTS: dict[str, tuple[str, tuple[Box, ...]]] = {  # name -> source, the parts that are shown one below the other
    "attention_map": ("docs/images/attention_map.jpg", ((90, 5, 425, 510),)),
    "best_of_n": ("docs/images/latents_methods.png", ((0, 10, 529, 186), (0, 322, 529, 449))),
    "clip_guidance": ("docs/images/latents_methods.png", ((0, 10, 529, 186), (0, 190, 529, 317))),
    "encoders": ("workflows/Text encoders by noise level (demo).jpg", (UNDER_TITLE,)),
    "experts": ("workflows/2 Two models in one run (demo).jpg", (UNDER_TITLE,)),
    "latent": ("workflows/Optimize the starting noise (demo).jpg", (UNDER_TITLE,)),
    "masked_prompts": ("docs/images/regions_methods.png", ((0, 9, 493, 125), (0, 133, 493, 250))),
    "paint_with_words": ("docs/images/regions_methods.png", ((0, 9, 493, 125), (0, 383, 493, 499))),
    "painter": ("docs/images/painter.jpg", ((12, 168, 358, 656),)),
    "region_lora": ("docs/images/region_lora.png", ((0, 6, 445, 108), (0, 327, 445, 429))),
    "region_start": ("docs/images/regions_start.png", ((0, 134, 506, 248), (0, 507, 506, 621))),
    "regions": ("docs/images/regions.jpg", ((0, 0, 798, 444),)),
    "regions_preview": ("docs/images/regions_preview.jpg", ((0, 188, 512, 328),)),
    "sag": ("docs/images/sag.jpg", ((6, 27, 594, 220), (6, 246, 594, 439))),
    "saliency": ("docs/images/saliency.jpg", ((170, 44, 510, 212), (170, 300, 510, 468))),
    "shapesworld": ("docs/images/shapesworld.jpg", ((0, 0, 400, 522),)),
    "style": ("workflows/Style from a picture (demo).jpg", ((0, 70, 512, 100), (0, 218, 512, 388))),
}


def cut(source: Image.Image, boxes: tuple[Box, ...]) -> Image.Image:
    """Equally wide parts of a picture, one below the other, at most WIDTH pixels wide."""
    parts = [source.convert("RGB").crop(box) for box in boxes]
    sheet = Image.new("RGB", (parts[0].width, sum(part.height + GAP for part in parts) - GAP), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + GAP
    scale = min(1, WIDTH / sheet.width)
    return sheet.resize((round(sheet.width * scale), round(sheet.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (source, boxes) in PARTS.items():
        with Image.open(ROOT / source) as picture:
            cut(picture, boxes).save(FOLDER / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
