"""The README's moving picture: painting in the browser while the result follows.

`python -m tools.release.painting_movie` opens the painter's template in a real browser, paints with the mouse, waits
for every picture, and writes docs/images/painting.webp. Waiting is left out of the film, nothing else is.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..browser import run_on_change
from ..comfy.api import Client
from ..comfy.host import ROOT
from ..comfy.server import temporary
from ..errors import SetupError
from .node_heights import editor

TARGET = ROOT / "docs" / "images" / "painting.webp"
WINDOW, WIDTH = (1400, 760), 860  # of the browser; of the film
SHOWN = {"x": 62, "y": 180, "width": 1130, "height": 540}  # of the window
STROKE, HOLD, END = 90, 900, 2200  # ms: a frame of a stroke, a new picture, the last one
IDLE = 2500  # ms without a run, after which a change has its picture
MOST_BYTES = 3_000_000
EMPTY = (700, 745)  # a point of the window where no node is
# Where the two nodes are that the film shows: side by side, the others out of sight.
ARRANGE = """() => {
    const nodes = window.app.graph.nodes, of = kind => nodes.find(node => node.type === kind);
    for (const node of nodes) node.pos = [node.pos[0], node.pos[1] + 4000];
    const painter = of('FoveaRegionPainter'), shown = of('PreviewImage');
    painter.pos = [0, 0]; painter.setSize([720, 620]);
    shown.pos = [740, 100]; shown.setSize([370, 500]);
    painter.widgets.find(widget => widget.name === 'painting').value = '';
    const view = window.app.canvas.ds;
    view.scale = 1; view.offset = [75, 60];
    window.app.canvas.setDirty(true, true);
}"""


@dataclass
class Film:
    """frames: (picture, how long it is shown in ms)."""

    page: Any
    frames: list[tuple[Image.Image, int]] = field(default_factory=list)

    def shoot(self, shown: int) -> None:
        data = self.page.screenshot(clip=SHOWN)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        height = round(WIDTH * picture.height / picture.width)
        self.frames.append((picture.resize((WIDTH, height), Image.Resampling.LANCZOS), shown))

    def write(self, path: Path) -> int:
        """-> its bytes."""
        pictures, shown = zip(*self.frames)
        pictures[0].save(path, save_all=True, append_images=list(pictures[1:]), duration=list(shown), loop=0,
                         quality=60, method=6, minimize_size=True)  # fmt: skip
        return path.stat().st_size


def load(page: Any) -> None:
    """The painter's template, arranged for the film."""
    page.set_default_timeout(120_000)
    page.evaluate("graph => window.app.loadGraphData(graph)", template())
    page.locator(".fovea-stage").first.wait_for()
    page.evaluate(ARRANGE)
    page.wait_for_timeout(1000)


def template() -> dict[str, Any]:
    """The graph with the painter and the start that needs no download."""
    for path in sorted((ROOT / "workflows").glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8"))
        if {node["type"] for node in graph["nodes"]} >= {"FoveaLoadDemo", "FoveaRegionPainter", "FoveaRegionStart"}:
            return graph
    raise SetupError("no template has the demo model, Region Painter and Region Start.")


def played(page: Any, client: Client) -> Film:
    """Two regions are painted, then one is wiped and painted elsewhere; every stroke is followed by its picture."""
    film = Film(page)

    def at(x: float, y: float) -> tuple[float, float]:
        box = page.locator(".fovea-paper").first.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def stroke(*points: tuple[float, float]) -> None:
        page.mouse.move(*at(*points[0]))
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*at(*point), steps=4)
            film.shoot(STROKE)
        page.mouse.up()

    def drawn(change: Callable[[], None], shown: int = HOLD) -> None:
        """A change, and its picture."""
        change()
        film.shoot(STROKE)
        idle = 0
        while idle < IDLE:  # a change while one runs is followed by another run
            page.wait_for_timeout(250)
            queue = client.json("/queue")
            idle = 0 if queue["queue_running"] or queue["queue_pending"] else idle + 250
        film.shoot(shown)

    def region(prompt: str, points: Sequence[tuple[float, float]]) -> None:
        page.get_by_role("button", name="Add a region").first.click()
        page.keyboard.type(prompt)
        film.shoot(HOLD)
        page.locator("[data-tool=brush]").first.click()
        stroke(*points)

    film.shoot(HOLD)
    page.get_by_role("button", name="Run", exact=True).first.click()  # loads the model
    while not client.json("/history"):
        page.wait_for_timeout(300)
    run_on_change(page, EMPTY)
    page.get_by_role("spinbutton", name="Size").first.fill("70")
    drawn(lambda: region("a plain red star", [(0.2, 0.2), (0.3, 0.2), (0.3, 0.3), (0.2, 0.3), (0.2, 0.22)]))
    drawn(lambda: region("a plain blue circle", [(0.7, 0.65), (0.8, 0.65), (0.8, 0.78), (0.7, 0.78), (0.7, 0.67)]))
    drawn(lambda: region("a plain green heart", [(0.7, 0.2), (0.8, 0.2), (0.8, 0.3), (0.7, 0.3), (0.7, 0.22)]), END)
    return film


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    with temporary("movie") as server:
        client = Client(server.address)
        with editor(client, "classic", WINDOW, {"Comfy.Minimap.Visible": False}) as page:
            load(page)
            size = played(page, client).write(args.out)
    if size > MOST_BYTES:
        raise SetupError(f"{args.out} has {size} bytes; at most {MOST_BYTES}.")
    print(f"{args.out}: {size} bytes")


if __name__ == "__main__":
    main()
