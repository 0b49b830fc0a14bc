"""The painter's tools by finger, pen, mouse and keyboard, its files, its size, and painting while it runs."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from painter_page import MODULES, NODE, ROOT, SIDE, loaded, opened, png_url, press_with_control
from PIL import Image

from tools.browser import run_on_change

pytestmark = [pytest.mark.browser, pytest.mark.server]
# Eight regions of wandering strokes, by the page's own brush: the text, and whether it is read back as it was.
SCRIBBLED = f"""async ([side, strokes, radius, hardness]) => {{
    const folder = {MODULES};
    const shapes = await import(folder + 'shapes.js'), drawing = await import(folder + 'drawing.js');
    const places = await import(folder + 'places.js');
    let seed = 7;
    const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    const drawn = drawing.blank(side, side);
    for (let id = 1; id <= 8; id++) {{
        const map = new Uint8Array(side * side);
        for (let stroke = 0; stroke < strokes; stroke++) {{
            let at = {{x: random() * side, y: random() * side}}, angle = random() * 7;
            for (let step = 0; step < 20; step++) {{
                angle += random() - 0.5;
                const next = {{x: at.x + side / 40 * Math.cos(angle), y: at.y + side / 40 * Math.sin(angle)}};
                shapes.stroke({{width: side, height: side, map}}, at, next, radius, 255, hardness);
                at = next;
            }}
        }}
        const row = {{...drawing.freshRow(drawn.rows), prompt: 'a striped purple triangle'}};
        drawn.rows.push({{...row, ...places.placed(drawn, map, [])}});
    }}
    drawn.prompt = drawing.composed(drawn.rows);
    await drawing.pack(drawn);
    const text = drawing.toText(drawn), read = await drawing.fromText(text, side, side);
    const same = drawn.rows.every((row, n) => row.mask.every((value, at) => value === read.rows[n].mask[at]));
    return {{text, same, masks: drawn.rows.map(row => row.mask.reduce((sum, value) => sum + value, 0))}};
}}"""

# Each row's place as the page has it.
AREAS = f"""async ([text, width, height]) => {{
    const drawing = await import({MODULES} + 'drawing.js');
    return (await drawing.fromText(text, width, height)).rows.map(row => [...(row.area ?? [])]);
}}"""

# What the page finds of every case of tests/phrase_cases.json.
FOUND = f"""async cases => {{
    const {{ occurrences }} = await import({MODULES} + 'phrases.js');
    const text = (prompt, {{ start, end }}) => prompt.slice(start, end);
    return cases.map(({{ prompt, phrase }}) => occurrences(prompt, phrase).map(place => text(prompt, place)));
}}"""

# What of a prompt belongs to which of the rows, by their numbers.
OWNED = f"""async ([prompt, rows]) => {{
    const {{ regionsIn }} = await import({MODULES} + 'phrases.js');
    const spans = regionsIn(prompt, rows.map((prompt, number) => ({{ number, prompt }})));
    return spans.map(({{ start, end, row }}) => [prompt.slice(start, end), row.number]);
}}"""

# Texts with the first and with the last of all options.
RESOLVED = f"""async texts => {{
    const {{ resolveWildcards }} = await import({MODULES} + 'wildcards.js');
    return texts.map(text => [0, -1].map(at => resolveWildcards(text, options => options.at(at))));
}}"""


@pytest.fixture
def painter(page, client, settings):
    """A drawing with one region and nothing painted."""
    painter = loaded(page, client, settings, "classic")
    painter.button("Add a region")
    return painter


@pytest.fixture
def device(page):
    return page.context.new_cdp_session(page)


def share(painter, row: int = 1) -> float:
    return float((painter.map() == row).mean())


def test_a_painter_begins_as_the_editors_settings_say(page, client, settings) -> None:
    usual = {"Fovea__Painter__BrushSize": 48, "Fovea__Painter__PaintOpacity": 75, "Fovea__Painter__Colors": ""}
    settings(Fovea__Painter__BrushSize=14, Fovea__Painter__PaintOpacity=40, Fovea__Painter__Colors="#102030 no #AABBCC")
    try:
        painter = loaded(page, client, settings, "classic")
        for _ in range(2):
            painter.button("Add a region")
        assert page.get_by_role("spinbutton", name="Size").first.input_value() == "14"
        assert page.get_by_label("Opacity of the paint").first.input_value() == "40"
        assert [row["color"] for row in painter.value()["regions"]] == ["#102030", "#aabbcc"]
    finally:
        settings(**usual)


def test_scribbles_stay_small(page, client, settings) -> None:
    """Eight regions of strokes that overlap, at 512 pixels: read back as they were, here and in Python."""
    from fovea.guidance.regions import painter_format

    opened(page, client, settings, "classic")
    kinds = ((2, 32, 1, 20_000), (4, 16, 1, 20_000), (8, 6, 1, 32_000), (2, 32, 0.5, 48_000))
    for strokes, radius, hardness, most in kinds:
        given = page.evaluate(SCRIBBLED, [512, strokes, radius, hardness])
        print(f"{strokes} strokes of radius {radius}, hardness {hardness}, in 8 regions: {len(given['text'])} bytes")
        assert given["same"] and len(given["text"]) <= most
        read = painter_format.masks(painter_format.parse(given["text"]), 512, 512)
        assert [round(255 * mask.sum().item()) for mask in read.double()] == given["masks"]


def test_shapes_are_the_same_here_and_there(page, client, settings) -> None:
    """Pixel by pixel, on any grid; also beyond the picture's edges."""
    from fovea.guidance.regions import painter_format

    opened(page, client, settings, "classic")
    random = np.random.default_rng(0)
    boxes = [[*random.uniform(-0.2, 0.9, 2).round(5), *random.uniform(0, 0.8, 2).round(5)] for _ in range(40)]
    boxes += [[0, 0, 1, 1], [1 / 3, 0.5, 1 / 3, 0.5], [0.25, 0.25, 0.0001, 0.5], [-1, -1, 3, 3]]
    sides = ("x", "y", "width", "height")
    shapes = [{"kind": kind, **dict(zip(sides, box))} for box in boxes for kind in painter_format.KINDS][:64]
    regions = [{"shapes": [shape]} for shape in shapes]
    for width, height in ((64, 48), (37, 101)):
        text = json.dumps({"version": 2, "width": width, "height": height, "regions": regions})
        wanted = painter_format.masks(painter_format.parse(text), width, height)
        for area, mask, region in zip(page.evaluate(AREAS, [text, width, height]), wanted, regions, strict=True):
            assert np.array_equal(np.array(area).reshape(height, width), 255 * mask.numpy()), region


def test_colored_masks_are_the_same_here_and_there(page, client, settings) -> None:
    """A mask that some program has saved in colors: how light it is counts."""
    from fovea.guidance.regions import painter_format

    opened(page, client, settings, "classic")
    mask = png_url(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    text = json.dumps({"version": 2, "width": 64, "height": 48, "regions": [{"mask": mask}]})
    (area,) = page.evaluate(AREAS, [text, 64, 48])
    assert np.array_equal(np.array(area).reshape(48, 64), painter_format.parse(text).rows[0].mask.numpy())


def test_regions_are_found_in_the_prompt(page, client, settings) -> None:
    """As on the server; what is underlined is the innermost row's, and rows of one prompt take turns."""
    opened(page, client, settings, "classic")
    cases = json.loads((ROOT / "tests" / "phrase_cases.json").read_text(encoding="utf-8"))
    assert page.evaluate(FOUND, cases) == [case["found"] for case in cases]
    for prompt, rows, wanted in (
        ("a red fox, a red fox", ["a red fox"], [["a red fox", 0], ["a red fox", 0]]),
        ("a dog, a dog, a dog", ["a dog", "A Dog"], [["a dog", 0], ["a dog", 1]]),
        ("one dog", ["dog", "dog", ""], [["dog", 0]]),
        ("a dog and a hot dog", ["dog", "a hot dog"], [["dog", 0], ["a hot dog", 1]]),
        ("a woman in a red dress, smiling", ["a red dress", "a woman in a red dress, smiling"],
         [["a woman in ", 1], ["a red dress", 0], [", smiling", 1]]),
    ):  # fmt: skip
        assert page.evaluate(OWNED, [prompt, rows]) == wanted, prompt


def test_wildcards_are_resolved_when_queued(painter) -> None:
    """One choice for a region and the whole prompt; the workflow keeps all options, the queued one's copy too."""
    page, prompt = painter.page, "a {red|{green|blue}} star"
    texts = {"{a|b} c": ["a c", "b c"], "{a|{b|c}}": ["a", "c"], r"\{a|b\}": ["{a|b}"] * 2, "{a": ["{a"] * 2,
             r"{a\|b|c}": ["a|b", "c"], "{|x}": ["", "x"], r"\(a\) {b}": [r"\(a\) b"] * 2}  # fmt: skip
    assert page.evaluate(RESOLVED, list(texts)) == list(texts.values())
    painter.prompt(1).fill(prompt)
    painter.button("Write prompt")
    chosen = set()
    for _ in range(40):
        queued = page.evaluate("() => window.app.graphToPrompt()")
        (inputs,) = [node["inputs"] for node in queued["output"].values()
                     if node["class_type"] == "FoveaRegionPainter"]  # fmt: skip
        (kept,) = [node for node in queued["workflow"]["nodes"] if node["type"] == "FoveaRegionPainter"]
        drawing, before = json.loads(inputs["painting"]), json.loads(kept["widgets_values"][2])
        assert before["prompt"] == before["regions"][0]["prompt"] == prompt
        assert drawing["prompt"] == drawing["regions"][0]["prompt"]
        chosen.add(drawing["prompt"])
    assert chosen == {f"a {color} star" for color in ("red", "green", "blue")}
    assert prompt in page.evaluate(f"{NODE}.widgets.find(widget => widget.name === 'painting').value")


def test_a_pen_presses_and_rubs(painter, device) -> None:
    """Pressure makes the brush wider; the pen's other end rubs out."""

    def pen(points, force: float, **more) -> None:
        for kind, (x, y) in zip(("mousePressed", *["mouseMoved"] * (len(points) - 2), "mouseReleased"), points):
            x, y = painter.at(x, y)
            device.send("Input.dispatchMouseEvent", {
                "type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1, "force": force,
                "pointerType": "pen", **more})  # fmt: skip

    painter.tool("brush")
    pen([(0.2, 0.2), (0.5, 0.2), (0.8, 0.2), (0.8, 0.2)], 0.1)
    light = share(painter)
    pen([(0.2, 0.7), (0.5, 0.7), (0.8, 0.7), (0.8, 0.7)], 1.0)
    assert 0 < light < 0.7 * (share(painter) - light)


def test_brushes_down_to_one_pixel(painter) -> None:
    """By number and by key; wherever a click is, it paints."""
    page, size = painter.page, painter.page.get_by_label("Size", exact=True)
    page.locator(".fovea-stage").first.focus()
    for _ in range(20):
        page.keyboard.press("[")
    assert size.input_value() == "1"
    page.keyboard.press("]")
    assert size.input_value() == "3"
    size.fill("1")
    for step in range(1, 6):
        page.mouse.click(*painter.at(step / 13, step / 13))
        middle = round(SIDE * step / 13)
        assert 1 <= painter.masks()[1][middle - 3 : middle + 4].sum() <= 4
    painter.drag((0.1, 0.7), (0.9, 0.7))
    assert painter.masks()[1][:, SIDE // 2].sum() in (1, 2)


def test_two_fingers_zoom_and_one_paints(painter, device) -> None:
    device.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})

    def touch(kind: str, *points) -> None:
        spots = [dict(zip("xy", painter_at(*point)), id=at) for at, point in enumerate(points)]
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

    box = painter.page.locator(".fovea-paper").first.bounding_box()

    def painter_at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    painter.tool("brush")
    touch("touchStart", (0.3, 0.3))
    for step in range(1, 5):
        touch("touchMove", (0.3 + 0.05 * step, 0.3))
    touch("touchEnd")
    painted = share(painter)
    assert painted > 0.01
    touch("touchStart", (0.5, 0.5))
    touch("touchStart", (0.5, 0.5), (0.6, 0.5))
    for step in range(1, 6):
        touch("touchMove", (0.5 - 0.05 * step, 0.5), (0.6 + 0.05 * step, 0.5))
    touch("touchEnd")
    wide = painter.page.locator(".fovea-paper").first.bounding_box()["width"]
    assert wide > 2 * box["width"] and share(painter) == painted, "two fingers zoom and paint nothing"


def test_shapes_by_mouse_and_keys(painter) -> None:
    page = painter.page
    page.locator(".fovea-stage").first.focus()
    page.keyboard.press("r")
    painter.drag((0.1, 0.1), (0.3, 0.3))
    assert 0.03 < share(painter) < 0.05
    page.keyboard.press("l")
    painter.drag((0.5, 0.1), (0.9, 0.1), (0.9, 0.5), (0.5, 0.5))
    assert 0.18 < share(painter) < 0.22
    page.keyboard.press("p")
    for corner in ((0.1, 0.5), (0.4, 0.5), (0.4, 0.8)):
        page.mouse.click(*painter.at(*corner))
    page.keyboard.press("Enter")
    before = share(painter)
    assert 0.22 < before < 0.27
    page.keyboard.press("v")
    map_before = painter.map()
    page.keyboard.press("Shift+ArrowRight")
    moved = painter.map()
    assert np.array_equal(moved[:, 10:] == 1, map_before[:, :-10] == 1)
    page.keyboard.press("g")
    page.mouse.click(*painter.at(0.02, 0.98))
    assert share(painter) == 1
    page.keyboard.press("Delete")
    assert share(painter) == 0 and page.evaluate(f"!!{NODE}"), "Delete clears the region, never the node"


def test_keys_zoom_and_the_space_bar_pans(painter) -> None:
    page = painter.page
    paper, stage = page.locator(".fovea-paper").first, page.locator(".fovea-stage").first
    stage.focus()
    whole = paper.bounding_box()
    page.keyboard.press("+")
    page.keyboard.press("+")
    near = paper.bounding_box()
    assert near["width"] == pytest.approx(1.25**2 * whole["width"], rel=0.01)
    box = stage.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.keyboard.down(" ")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=5)
    page.mouse.up()
    page.keyboard.up(" ")
    moved = paper.bounding_box()
    assert moved["x"] - near["x"] == pytest.approx(30, abs=1) and moved["y"] - near["y"] == pytest.approx(20, abs=1)
    assert share(painter) == 0, "moving the paper paints nothing"
    page.keyboard.press("0")
    assert paper.bounding_box() == pytest.approx(whole, abs=0.5)
    painter.drag((0.4, 0.4), (0.6, 0.6))
    assert share(painter) > 0


def test_typing_is_undone_field_by_field(painter) -> None:
    page, prompt = painter.page, painter.prompt(1)
    prompt.fill("a red")
    prompt.press("Enter")
    prompt.press_sequentially(" star")
    painter.button("Undo")
    assert painter.value()["regions"][0]["prompt"] == "a red" == prompt.input_value()
    painter.button("Undo")
    assert painter.value()["regions"][0]["prompt"] == ""
    painter.button("Redo")
    painter.button("Redo")
    assert painter.value()["regions"][0]["prompt"] == "a red star"
    page.wait_for_timeout(400)


def test_rows_are_called_by_their_place(painter) -> None:
    """Also after the one before has gone."""
    painter.button("Add a region")
    for at, prompt in enumerate(("sun", "moon")):
        painter.prompt(at + 1).fill(prompt)
        painter.prompt(at + 1).press("Enter")
    for left in (["moon"], []):
        painter.button("Delete region 1")
        assert [row["prompt"] for row in painter.value().get("regions", [])] == left


def test_the_graphs_undo_keeps_tool_and_zoom(painter) -> None:
    """The graph's undo takes the last stroke away and makes the node anew; whoever paints goes on as before."""
    page = painter.page
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.3, 0.3))
    first = painter.map()
    page.wait_for_timeout(700)  # the graph's step of undo
    painter.drag((0.6, 0.6), (0.9, 0.9))
    both = painter.map()
    assert (both == 1).sum() > (first == 1).sum()
    page.mouse.move(*painter.at(0.5, 0.5))
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(700)
    zoom = painter.zoom()
    assert zoom > 1.5
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})
    press_with_control(page, "z")
    painter.settled(first)
    page.wait_for_function("document.querySelector('[data-tool=rectangle]').getAttribute('aria-pressed') === 'true'")
    assert painter.zoom() == pytest.approx(zoom, rel=0.01)
    press_with_control(page, "y")
    page.wait_for_function(f"!!{NODE}")
    painter.settled(both)


def test_the_painters_undo_is_not_the_graphs(painter) -> None:
    """Ctrl+Z on the stage takes back a stroke and leaves the graph alone, which still hears the key as it is."""
    page = painter.page
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.3, 0.3))
    first = painter.map()
    page.wait_for_timeout(700)  # the graph's step of undo
    painter.drag((0.6, 0.6), (0.9, 0.9))
    page.wait_for_timeout(700)
    page.evaluate(f"""() => {{ window.before = {NODE};
        window.addEventListener('keydown', event => requestAnimationFrame(() => {{ window.heard = event.key; }}), true);
    }}""")
    page.locator(".fovea-stage").first.focus()
    press_with_control(page, "z")
    painter.settled(first)
    page.wait_for_timeout(700)
    assert page.evaluate(f"window.before === {NODE}"), "the graph's undo would make the node anew"
    assert page.evaluate("window.heard") == "z"
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})
    press_with_control(page, "z")
    page.wait_for_function(f"{NODE} && window.before !== {NODE}")


def test_full_screen_and_back(painter) -> None:
    """Painted over the whole screen, too; Escape brings the panel back to the node with all of it."""
    page = painter.page
    painter.tool("rectangle")
    for left in (0.1, 0.6):
        before = share(painter)
        painter.button("Full screen")
        page.locator("dialog.fovea-full[open] .fovea-panel").wait_for()
        page.wait_for_timeout(300)  # the paper finds its place
        painter.drag((left, 0.1), (left + 0.3, 0.4))
        page.keyboard.press("Escape")
        page.locator("dialog.fovea-full").wait_for(state="detached")
        page.locator(".fovea-painter > .fovea-panel").wait_for()
        assert share(painter) - before == pytest.approx(0.09, abs=0.01)


def test_an_open_polygon_is_forgotten_by_other_changes(painter) -> None:
    """A region that is added meanwhile is the chosen one and the next shape is its own."""
    page = painter.page
    painter.tool("polygon")
    page.mouse.click(*painter.at(0.2, 0.2))
    painter.button("Add a region")
    assert painter.row(2).get_attribute("data-chosen") == "true"
    painter.tool("rectangle")
    painter.drag((0.5, 0.5), (0.9, 0.9))
    assert len(painter.value()["regions"]) == 2 and share(painter) == 0 and share(painter, 2) > 0.1


def test_pictures_come_in_and_go_out(painter, tmp_path: Path) -> None:
    """Import goes to the nearest row's color, export gives the colors back."""
    page = painter.page
    painter.button("Add a region")
    colors = [row["color"] for row in painter.value()["regions"]]
    picture = Image.new("RGB", (SIDE * 2, SIDE * 2), "white")
    nearly = tuple(min(int(colors[0][at : at + 2], 16) + 8, 255) for at in (1, 3, 5))
    picture.paste(nearly, (0, 0, SIDE, SIDE))
    picture.paste(colors[1], (SIDE, SIDE, 2 * SIDE, 2 * SIDE))
    picture.save(tmp_path / "in.png")
    page.locator(".fovea-panel input[type=file]").first.set_input_files(tmp_path / "in.png")
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[: SIDE // 2, : SIDE // 2] = 1
    wanted[SIDE // 2 :, SIDE // 2 :] = 2
    painter.settled(wanted)
    with page.expect_download() as waiting:
        painter.button("Export as PNG")
    out = np.array(Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes())).convert("RGBA"))
    assert "#" + bytes(out[10, 10, :3]).hex() == colors[0] and "#" + bytes(out[-10, -10, :3]).hex() == colors[1]
    assert out[10, -10, 3] == 0
    page.locator(".fovea-panel input[type=file]").first.set_input_files(
        {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.get_by_text("no.png is not an image.").wait_for()
    assert np.array_equal(painter.map(), wanted)


def test_speaks_the_editors_language(page, client, settings) -> None:
    texts = (ROOT / "web" / "js" / "painter" / "texts.js").read_text(encoding="utf-8")
    chinese = dict(re.findall(r'^  "(.+?)": "(.+?)",$', texts, re.M))
    painter = loaded(page, client, settings, "vue", language="zh")
    painter.button(chinese["Add a region"])
    assert painter.prompt(1).get_attribute("aria-label") == chinese["Prompt of region {}"].replace("{}", "1")
    assert page.locator("[data-tool=brush]").get_attribute("title") == chinese["Brush (B)"]
    page.screenshot(path=ROOT / "output" / "browser" / "painter_zh.png")
    assert not page.ours()


def test_results_lie_behind_inside_a_subgraph(page, client, settings) -> None:
    """In a subgraph, too, the last result can be painted over."""
    painter = loaded(page, client, settings, "vue")
    painter.button("Add a region")
    painter.tool("ellipse")
    painter.drag((0.2, 0.2), (0.8, 0.8))
    painter.prompt(1).fill("a red star")
    painter.button("Write prompt")
    page.evaluate("() => { window.app.graph.convertToSubgraph(new Set(window.app.graph.nodes)); }")
    page.evaluate("() => window.app.canvas.setGraph([...window.app.graph.subgraphs.values()][0])")
    page.locator(".fovea-stage").first.wait_for()
    page.get_by_role("button", name="Run", exact=True).first.click()
    behind = page.locator(".fovea-panel select").first
    page.wait_for_function("document.querySelector('.fovea-panel select').options.length > 1", timeout=120_000)
    behind.select_option(index=1)
    page.wait_for_function("document.querySelector('.fovea-paper img').naturalWidth > 0")


def test_the_picture_follows_the_brush(page, client, settings) -> None:
    """Run (On Change): every stroke is followed by its picture, none is queued behind another, the last one wins."""
    painter = loaded(page, client, settings, "classic")
    painter.button("Add a region")
    painter.prompt(1).fill("a plain red star")
    painter.button("Write prompt")
    page.wait_for_timeout(1000)
    done = len(client.json("/history"))
    page.get_by_role("button", name="Run", exact=True).first.click()  # loads the model
    while client.json("/queue")["queue_running"] or len(client.json("/history")) <= done:
        time.sleep(0.2)
    page.evaluate("""() => {
        window.longest = 0; window.drawn = [];
        window.app.api.addEventListener('status', event => {
            window.longest = Math.max(window.longest, event.detail?.exec_info?.queue_remaining ?? 0); });
        window.app.api.addEventListener('executed', event => {
            if (event.detail?.output?.images) window.drawn.push(performance.now()); }); }""")
    run_on_change(page, (300, 950))
    page.wait_for_timeout(500)
    painter.tool("brush")
    spent = []
    for at in range(4):
        page.evaluate("window.drawn = []")
        painter.drag((0.2 + 0.1 * at, 0.3), (0.3 + 0.1 * at, 0.6))
        began = page.evaluate("performance.now()")
        page.wait_for_function("window.drawn.length > 0", timeout=60_000, polling=100)
        spent.append(page.evaluate("window.drawn.at(-1)") - began)
    print("from the stroke's end to its picture:", ", ".join(f"{value / 1000:.2f} s" for value in spent))
    page.evaluate("window.longest = 0")
    for at in range(6):  # without waiting for pictures
        painter.drag((0.2 + 0.1 * at, 0.7), (0.2 + 0.1 * at, 0.9))
        page.wait_for_timeout(500)
    text, deadline = painter.text(), time.monotonic() + 120
    last = None
    while time.monotonic() < deadline:
        entries = sorted(client.json("/history").values(), key=lambda entry: entry["prompt"][0])
        (last,) = [node["inputs"]["painting"] for node in entries[-1]["prompt"][2].values()
                   if node["class_type"] == "FoveaRegionPainter"]  # fmt: skip
        if last == text and not client.json("/queue")["queue_running"]:
            break
        time.sleep(0.3)
    assert last == text, "the last stroke has its picture"
    assert page.evaluate("window.longest") <= 2, "one runs, at most one waits"
