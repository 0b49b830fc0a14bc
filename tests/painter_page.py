"""The region painter on the editor's page, for the browser tests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NODE = "window.app.graph.nodes.find(node => node.type === 'FoveaRegionPainter')"
SIDE = 256
# The folder of the painter's modules; in a function that is async.
MODULES = """(await (await fetch('/extensions')).json()).find(path => path.endsWith('region_painter.js'))
    .replace('region_painter.js', 'painter/')"""
# The search dialog is open and letters go into its field; before, they would be the editor's own keys.
SEARCHING = """() => document.activeElement?.tagName === 'INPUT'
    && !!document.activeElement.closest('[role=dialog], [role=listbox]')"""
NO_DIALOG = "() => !document.querySelector('[role=dialog], [role=listbox]')"
# How far the stage is zoomed in: the paper's width over what it has when all of it is seen.
ZOOM = """() => {
    const [stage, paper] = ['stage', 'paper'].map(name => document.querySelector(`.fovea-${name}`));
    const room = stage.getBoundingClientRect(), shown = paper.getBoundingClientRect();
    return shown.width / Math.min(room.width, room.height * shown.width / shown.height);
}"""


# A drawing is given, and a mouse acts on the stage before it can be read. A null: none is given.
AT_ONCE = f"""([text, events]) => {{
    const stage = document.querySelector('.fovea-stage');
    if (text !== null) {NODE}.widgets.find(widget => widget.name === 'painting').value = text;
    for (const [kind, clientX, clientY] of events) stage.dispatchEvent(new PointerEvent(`pointer${{kind}}`, {{
        pointerId: 1, button: kind === 'move' ? -1 : 0, buttons: kind === 'up' ? 0 : 1, clientX, clientY,
        bubbles: true, cancelable: true }})); }}"""


class Fingers:
    """Fingers on the page, each at the same place of the list from its touch to its end."""

    def __init__(self, page: Any) -> None:
        self.device = page.context.new_cdp_session(page)
        self.device.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})

    def touch(self, kind: str, *spots: tuple[float, float]) -> None:
        """kind: Start, Move or End. spots: where fingers are then, in pixels of the page."""
        points = [{"x": x, "y": y, "id": at} for at, (x, y) in enumerate(spots)]
        self.device.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    def tap(self, spot: tuple[float, float]) -> None:
        self.touch("Start", spot)
        self.touch("End")

    def pinch(self, first: tuple[float, float], second: tuple[float, float], apart: float = 40) -> None:
        """One after the other comes down, then they part by so many pixels each."""
        (a, y), (b, z) = first, second
        self.touch("Start", first)
        self.touch("Start", first, second)
        for step in range(1, 5):
            self.touch("Move", (a - apart * step / 4, y), (b + apart * step / 4, z))
        self.touch("End")


class Painter:
    """The painter on the page."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def text(self, node: str = NODE) -> str:
        """As a prompt gets it: a stroke that ended just now is in it."""
        return self.page.evaluate(f"{node}.widgets.find(widget => widget.name === 'painting').serializeValue()")

    def value(self, node: str = NODE) -> dict:
        return json.loads(self.text(node) or "{}")

    def masks(self, node: str = NODE) -> dict[int, np.ndarray]:
        """Each region's whole place by its id, as the server reads it; the frontmost last."""
        from fovea.guidance.regions import painter_format

        drawn = painter_format.parse(self.text(node))
        value = self.value(node)
        places = painter_format.masks(drawn, value.get("width", SIDE), value.get("height", SIDE))
        return {row.id: place.numpy() for row, place in zip(drawn.shown, places)}

    def map(self, node: str = NODE) -> np.ndarray:
        """The id of the region that is to be seen in every pixel, 0 for none."""
        value = self.value(node)
        seen = np.zeros((value.get("height", SIDE), value.get("width", SIDE)), np.uint8)
        for row, place in self.masks(node).items():
            seen[place >= 0.5] = row
        return seen

    def at(self, x: float, y: float) -> tuple[float, float]:
        box = self.page.locator(".fovea-paper").first.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def still(self, name: str = "paper") -> dict[str, float]:
        """Where the paper or the stage is, once it stays there: a busy editor lays itself out late."""
        part, seen = self.page.locator(f".fovea-{name}").first, []
        for _ in range(40):
            seen.append(part.bounding_box())
            if len(seen) > 3 and all(place == seen[-1] for place in seen[-4:]):
                break
            self.page.wait_for_timeout(200)
        return seen[-1]

    def zoom(self) -> float:
        """1 if all of the drawing is seen, once the paper stays."""
        self.still()
        return self.page.evaluate(ZOOM)

    def drag(self, *points: tuple[float, float], button: str = "left") -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down(button=button)
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=10)
        self.page.mouse.up(button=button)

    def at_once(self, *events: tuple[str, float, float], text: str | None = None) -> None:
        """Events of the mouse, each ("down", x, y) or so, without a pause between them; before, a drawing is given."""
        self.page.evaluate(AT_ONCE, [text, [(kind, *self.at(x, y)) for kind, x, y in events]])

    def tool(self, name: str) -> None:
        self.page.locator(f"[data-tool={name}]").first.click()

    def button(self, name: str) -> None:
        self.page.get_by_role("button", name=name).first.click()

    def row(self, number: int) -> Any:
        """The line of a region by the number on it."""
        return self.page.locator(f".fovea-row[data-number='{number}']").first

    def prompt(self, number: int) -> Any:
        return self.row(number).locator(".fovea-prompt")

    def settled(self, wanted: np.ndarray) -> None:
        """Wait until the widget holds this map."""
        for _ in range(50):
            if np.array_equal(self.map(), wanted):
                return
            self.page.wait_for_timeout(100)
        assert np.array_equal(self.map(), wanted)


def arrived(page: Any, client: Any) -> None:
    """The editor is there, and so is the graph that it starts with, which would take the place of another."""
    page.goto(client.address)
    page.wait_for_function("window.app?.graph && window.app.canvas")
    page.wait_for_function("!!window.LiteGraph?.registered_node_types?.FoveaRegionPainter")
    page.wait_for_function("!!window.app.extensionManager?.workflow?.activeWorkflow?.activeState")


def opened(
    page: Any, client: Any, settings: Callable, renderer: str, palette: str = "dark", language: str = "en"
) -> None:
    settings(Comfy__Locale=language, Comfy__VueNodes__Enabled=renderer == "vue", Comfy__Workflow__Persist=True,
             Comfy__ColorPalette=palette, Comfy__NodeSearchBoxImpl__FollowCursor=False,
             Comfy__Workflow__ShowMissingModelsWarning=False)  # fmt: skip
    arrived(page, client)


def loaded(
    page: Any, client: Any, settings: Callable, renderer: str, palette: str = "dark", language: str = "en"
) -> Painter:
    """The template's graph, without its drawing."""
    opened(page, client, settings, renderer, palette, language)
    graph = json.loads((ROOT / "workflows" / "1 Paint with words (demo).json").read_text(encoding="utf-8"))
    node = next(node for node in graph["nodes"] if node["type"] == "FoveaRegionPainter")
    node["widgets_values"] = [SIDE, SIDE, ""]
    # Already in front: who is brought there later gets another place in the order of execution once the graph's undo
    # has loaded the graph, which the editor takes for a change, and forgets its redo. So it does with every node.
    graph["nodes"].sort(key=lambda each: each is node)
    graph["extra"]["ds"] = {"scale": 0.75, "offset": [810 - node["pos"][0], 120]}  # the painter in the middle, whole
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.locator(".fovea-stage").first.wait_for()
    return Painter(page)


def appears(page: Any, condition: str, seconds: float) -> bool:
    """Whether a condition comes true on the page in time."""
    for _ in range(round(10 * seconds)):
        if page.evaluate(condition):
            return True
        page.wait_for_timeout(100)
    return False


def png(pixels: np.ndarray) -> bytes:
    """A picture's file."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


def png_url(pixels: np.ndarray) -> str:
    """The same as a drawing's text has it."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def press_with_control(page: Any, key: str) -> None:
    """A key while Control is down, each key in a frame of its own, as fingers do it. The editor takes up a key in the
    frame after it: one that is let go before looks to it like Control alone, after which it looks for changes of the
    graph; it finds the sizes that its undo has laid out anew, and forgets its redo."""
    for change, name in (("down", "Control"), ("down", key), ("up", key), ("up", "Control")):
        getattr(page.keyboard, change)(name)
        page.evaluate("() => new Promise(requestAnimationFrame)")


def search_for(page: Any, text: str, position: tuple[float, float]) -> None:
    """Double-click the canvas, and type into the search dialog once it can be typed into. position: on the canvas."""
    box = page.locator("#graph-canvas").bounding_box()
    for _ in range(5):
        page.keyboard.press("Escape")  # what a try before has opened
        page.wait_for_function(NO_DIALOG)  # it still takes letters while it closes
        page.mouse.dblclick(box["x"] + position[0], box["y"] + position[1])
        if appears(page, SEARCHING, 5):
            break
    else:
        raise AssertionError("a double-click on the canvas opens no search dialog")
    page.keyboard.type(text, delay=30)


def paint_two(painter: Painter) -> None:
    """A star at the left, a circle at the right, typed and painted."""
    painter.button("Add a region")
    painter.prompt(1).fill("a plain red star")
    painter.tool("ellipse")
    painter.drag((0.06, 0.25), (0.46, 0.7))
    painter.button("Add a region")
    painter.prompt(2).fill("a plain blue circle")
    painter.tool("rectangle")
    painter.drag((0.56, 0.3), (0.94, 0.7))
    painter.button("Write prompt")
