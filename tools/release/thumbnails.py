"""Makes the templates' thumbnails, a same-name .jpg each: what the graph draws, with its title in the picture.

Templates for real checkpoints show what their graph does on the demo model, and say so.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from ..comfy import workflow as ui
from ..comfy.api import Client
from ..comfy.graph import Graph
from ..comfy.host import ROOT
from ..comfy.server import temporary
from ..errors import SetupError
from .sheet import font

FOLDER = ROOT / "workflows"
SIZE, TITLE, LABEL, GAP = 512, 68, 26, 4
INK, FAINT, PAPER, BAR = (28, 28, 32), (90, 90, 98), (250, 249, 246), (34, 34, 51)
PAINTED = "What is painted"  # the painter's own preview, which its template has no node for
ON_DEMO = "drawn on the demo model"
# Template -> titles of the preview nodes that its thumbnail shows, a column each.
SHOWN: dict[str, tuple[str, ...]] = {
    "1 Paint with words (demo)": (PAINTED, "The picture"),
    "2 Two models in one run (demo)": ("The second alone", "Both, in as many steps"),
    "3 The best starting noise (demo)": ("Four noises by chance", "The best of 12"),
    "A LoRA for each region (demo)": ("Without LoRAs", "A LoRA per half"),
    "Draw a part anew (demo)": ("The whole picture", "The part, drawn anew"),
    "Optimize the starting noise (demo)": ("Not optimized", "Optimized"),
    "Regions from all sources (demo)": ("A painting (or Load Image)", "The picture"),
    "Self-Attention Guidance (demo)": ("Without guidance", "With guidance"),
    "Steps for each of two models (demo)": ("4 steps and 12 steps", "8 steps and 8 steps"),
    "Style from a picture (demo)": ("The style picture", "Without style", "With style"),
    "Text encoders by noise level (demo)": ("eDiff-I", "CLIP only"),
}
# Template for a real checkpoint -> the demo's that does the same, and the seed to draw it with.
STAND_INS = {
    "1 Paint with words - SDXL": ("1 Paint with words (demo)", 3),
    "2 Two models in one run - Wan 2.2": ("2 Two models in one run (demo)", 8),
    "3 The best starting noise - SDXL": ("3 The best starting noise (demo)", 22),
}
Column = tuple[str, Sequence[Image.Image]]


def card(title: str, columns: Sequence[Column], note: str = "") -> Image.Image:
    """A square: the title above, columns of pictures with their labels, a note at the bottom."""
    sheet = Image.new("RGB", (SIZE, SIZE), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, SIZE, TITLE), fill=BAR)
    lines = textwrap.wrap(title, 34)
    big = font(26 if len(lines) == 1 else 23)
    for number, line in enumerate(lines):
        draw.text((SIZE // 2, TITLE * (2 * number + 1) // (2 * len(lines))), line, "white", big, anchor="mm")
    bottom = SIZE - (LABEL if note else 0)
    if note:
        draw.text((SIZE // 2, bottom + LABEL // 2), note, FAINT, font(17), anchor="mm")
    width = SIZE // len(columns)
    room = bottom - TITLE - LABEL
    for x, (label, images) in enumerate(columns):
        rows = min(len(images), max(1, room // (width - 60)))
        height = room // rows
        middle = x * width + width // 2
        draw.text((middle, TITLE + LABEL // 2 + 2), label, INK, font(17 if len(label) < 24 else 14), anchor="mm")
        for y, image in enumerate(images[:rows]):
            side = (width - 2 * GAP, height - 2 * GAP)
            tile = ImageOps.pad(image.convert("RGB"), side, Image.Resampling.LANCZOS, PAPER)
            sheet.paste(tile, (x * width + GAP, TITLE + LABEL + y * height + GAP))
    return sheet


def graph_of(workflow: ui.Workflow, info: dict[str, Any], seed: int | None) -> Graph:
    """What the editor would queue, with the painter's preview too. seed: in place of the one that it has."""
    graph = copy.deepcopy(ui.to_api(workflow, info))
    for node_id, node in list(graph.items()):
        if node["class_type"] == "FoveaRegionPainter":
            shown = {"class_type": "PreviewImage", "inputs": {"images": [node_id, 2]}, "_meta": {"title": PAINTED}}
            graph[f"{node_id}0"] = shown
        if node["class_type"] == "PrimitiveInt" and seed is not None:
            node["inputs"]["value"] = seed
    return graph


def drawn(client: Client, graph: Graph, titles: Sequence[str]) -> list[Column]:
    """The pictures of the preview nodes with these titles."""
    run = client.run(graph)
    if run.status != "success":
        raise SetupError(run.explain())
    node_ids = [node_id for title in titles for node_id, node in graph.items()
                if node["_meta"]["title"] == title and node["class_type"] == "PreviewImage"]  # fmt: skip
    return [
        (title, [Image.open(io.BytesIO(client.image(image))).convert("RGB") for image in run.images(node_id)])
        for title, node_id in zip(titles, node_ids, strict=True)
    ]


def thumbnail(client: Client, info: dict[str, Any], path: Path) -> Image.Image:
    """Of the template in this file."""
    source, seed = STAND_INS.get(path.stem, (path.stem, None))
    workflow = json.loads(path.with_name(f"{source}.json").read_text(encoding="utf-8"))
    columns = drawn(client, graph_of(workflow, info, seed), SHOWN[source])
    title = path.stem.removesuffix(" (demo)").lstrip("0123456789 ")
    return card(title, columns, ON_DEMO if path.stem in STAND_INS else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of templates, without .json; none: all")
    wanted = parser.parse_args().names
    with temporary("thumbnails") as server:
        client = Client(server.address)
        info = client.json("/object_info")
        paths = [path for path in sorted(FOLDER.glob("*.json")) if not wanted or path.stem in wanted]
        for path in tqdm(paths, unit="template"):
            thumbnail(client, info, path).save(path.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
