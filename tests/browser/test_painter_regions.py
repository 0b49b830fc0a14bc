"""The painter's regions by a real pointer: they overlap, shapes stay shapes, masks come in and go out, settings are
kept, and the paper keeps its room."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painter_page import NODE, ROOT, SIDE, Painter, opened, png
from PIL import Image
from safetensors.torch import save_file

SHOTS = ROOT / "output" / "browser"
pytestmark = [pytest.mark.browser, pytest.mark.server]
both_renderers = pytest.mark.parametrize("renderer", ["classic", "vue"])
MIN_PAPER = 253  # pixels: what an empty painter once had


def alone(page: Any, client: Any, settings: Any, renderer: str, width: int | None = None) -> Painter:
    """A new painter at 100 %, as wide as given or as it comes, for a picture of SIDE pixels."""
    opened(page, client, settings, renderer)
    page.evaluate(
        """([width, side]) => { const { graph, canvas } = window.app;
        graph.clear();
        const node = window.LiteGraph.createNode('FoveaRegionPainter');
        graph.add(node);
        node.pos = [300, 60];
        if (width) node.setSize([width, node.size[1]]);
        for (const name of ['width', 'height']) {
            const widget = node.widgets.find(widget => widget.name === name);
            widget.value = side;
            widget.callback?.(side); }
        canvas.ds.scale = 1; canvas.ds.offset = [100, 20]; canvas.setDirty(true, true); }""",
        [width, SIDE],
    )
    page.locator(".fovea-stage").first.wait_for()
    page.wait_for_timeout(700)
    return Painter(page)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A rectangle by fractions of the picture, as a mask."""
    made = np.zeros((SIDE, SIDE))
    left, top, right, bottom = (round(edge * SIDE) for edge in (left, top, right, bottom))
    made[top:bottom, left:right] = 1
    return made


def near(mask: np.ndarray, wanted: np.ndarray) -> bool:
    """Up to the pixels that a pointer cannot choose between."""
    return float(np.abs(mask - wanted).mean()) < 0.02


def give(page: Any, field: int, *files: tuple[str, bytes]) -> None:
    page.locator(".fovea-panel input[type=file]").nth(field).set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
    )


def eventually(check: Any) -> None:
    for _ in range(50):
        if check():
            return
        time.sleep(0.1)
    assert check()


@both_renderers
def test_regions_overlap(page, client, settings, renderer: str) -> None:
    """Painting one takes nothing from another, the order decides who is seen, and what was in front leaves no bite."""
    painter = alone(page, client, settings, renderer)
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.6, 0.6))
    painter.prompt(1).fill("a sea")
    first = painter.masks()[1]
    assert near(first, box(0.1, 0.1, 0.6, 0.6))
    painter.button("Add a region")
    painter.prompt(2).fill("a boat")
    painter.tool("brush")
    painter.drag((0.3, 0.3), (0.5, 0.5))
    painter.tool("ellipse")
    painter.drag((0.4, 0.4), (0.9, 0.9))
    both = painter.masks()
    overlap = (first > 0) & (both[2] > 0)
    assert np.array_equal(both[1], first) and overlap.sum() > 1000
    assert (painter.map()[overlap] == 2).all(), "the newer one is in front"
    page.screenshot(path=SHOTS / f"painter_overlap_{renderer}.png")
    painter.row(2).get_by_role("button", name="Send backward").click()
    assert [region["prompt"] for region in painter.value()["regions"]] == ["a boat", "a sea"]
    assert (painter.map()[overlap] == 1).all(), "the order acts"
    painter.row(1).get_by_role("button", name="Bring forward").click()
    assert (painter.map()[overlap] == 2).all()
    painter.row(1).locator(".fovea-swatch").click()
    painter.tool("eraser")
    painter.drag((0.45, 0.3), (0.45, 0.55))
    assert np.array_equal(painter.masks()[2], both[2]) and painter.masks()[1].sum() < first.sum(), "only the chosen one"
    painter.button("Undo")
    painter.row(2).get_by_role("button", name="Hide this region").click()
    assert np.array_equal(painter.map() == 1, first > 0), "hidden, it leaves no bite"
    painter.row(2).get_by_role("button", name="Hidden").click()
    assert (painter.map()[overlap] == 2).all()
    painter.button("Delete region 2")
    assert np.array_equal(painter.map() == 1, first > 0)
    painter.button("Undo")
    assert np.array_equal(painter.masks()[2], both[2])
    assert not page.ours()


@both_renderers
def test_shapes_stay_shapes(page, client, settings, renderer: str) -> None:
    """Resized by handles, moved, snapped, typed in numbers; a brush adds to them, an eraser makes them paint."""
    painter = alone(page, client, settings, renderer)
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.4, 0.4))
    assert page.locator(".fovea-handle").count() == 8
    page.screenshot(path=SHOTS / f"painter_shape_{renderer}.png")
    painter.drag((0.4, 0.4), (0.8, 0.6))  # its lower right corner
    assert near(painter.masks()[1], box(0.1, 0.1, 0.8, 0.6))
    painter.drag((0.1, 0.35), (0.2, 0.35))  # the middle of its left side
    (shape,) = painter.value()["regions"][0]["shapes"]
    assert shape.pop("kind") == "rectangle"
    assert shape == pytest.approx({"x": 0.2, "y": 0.1, "width": 0.6, "height": 0.5}, abs=0.02)
    painter.drag((0.8, 0.6), (0.661, 0.495))
    _, left, top, width, height = painter.value()["regions"][0]["shapes"][0].values()
    assert left + width == pytest.approx(2 / 3, abs=0.003) and top + height == 0.5, "at two thirds and a half"
    painter.drag((2 / 3, 0.5), (0.661, 0.8))
    page.keyboard.down("Control")
    painter.drag((2 / 3, 0.8), (0.655, 0.8))
    page.keyboard.up("Control")
    _, left, top, width, height = painter.value()["regions"][0]["shapes"][0].values()
    assert left + width < 0.664, "Ctrl keeps it free"
    for name, pixels in (("Left", 64), ("Top", 32), ("Width", 100), ("Height", 50)):
        field = page.locator(".fovea-box").get_by_label(name, exact=True)
        field.fill(str(pixels))
        field.press("Enter")
    wanted = np.zeros((SIDE, SIDE))
    wanted[32:82, 64:164] = 1
    painter.settled(wanted)
    painter.tool("move")
    painter.drag((0.4, 0.2), (0.5, 0.3))
    assert near(painter.masks()[1], box(0.35, 0.225, 0.35 + 100 / SIDE, 0.225 + 50 / SIDE))
    painter.button("Undo")
    painter.settled(wanted)
    painter.tool("brush")
    painter.drag((0.1, 0.9), (0.9, 0.9))
    region = painter.value()["regions"][0]
    assert len(region["shapes"]) == 1 and region["mask"], "what is painted comes beside it"
    painter.tool("ellipse")
    painter.drag((0.05, 0.5), (0.25, 0.7))
    assert [shape["kind"] for shape in painter.value()["regions"][0]["shapes"]] == ["rectangle", "ellipse"]
    page.mouse.click(*painter.at(0.4, 0.2))  # the rectangle has the handles again
    assert page.locator(".fovea-box").get_by_label("Width", exact=True).input_value() == "100"
    before, text = painter.masks()[1], painter.text()
    painter.drag((0.9, 0.3), (0.9, 0.4), button="right")
    assert painter.text() == text, "nothing was there to erase"
    painter.drag((0.4, 0.15), (0.4, 0.3), button="right")
    region = painter.value()["regions"][0]
    assert "shapes" not in region and painter.masks()[1].sum() < before.sum()
    painter.button("Undo")
    assert len(painter.value()["regions"][0]["shapes"]) == 2 and np.array_equal(painter.masks()[1], before)
    assert not page.ours()


def test_arrangements(page, client, settings) -> None:
    """Regions without a place get one, others come; what is painted stays."""
    painter = alone(page, client, settings, "classic")
    painter.tool("lasso")
    painter.drag((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))
    painted = painter.masks()[1]
    painter.button("Add a region")
    painter.prompt(2).fill("left")
    page.locator(".fovea-arrange").select_option(label="3 columns")
    masks = painter.masks()
    assert np.array_equal(masks[1], painted) and len(masks) == 4
    for number in range(3):
        assert near(masks[2 + number], box(number / 3, 0, (number + 1) / 3, 1))
    assert painter.value()["regions"][1]["prompt"] == "left"
    painter.button("Undo")
    assert len(painter.masks()) == 2 and not painter.masks()[2].any()
    page.locator(".fovea-arrange").select_option(label="Center")
    assert near(painter.masks()[2], box(0.25, 0.25, 0.75, 0.75))


@both_renderers
@pytest.mark.parametrize("width", [400, None])
def test_the_paper_keeps_its_room(page, client, settings, renderer: str, width: int | None) -> None:
    """With nine regions, too; a new one is in view and ready to type; nothing wraps, nothing hangs out of the node."""
    painter = alone(page, client, settings, renderer, width)
    paper = page.locator(".fovea-paper").first
    assert paper.bounding_box()["width"] >= MIN_PAPER
    page.get_by_text("Paint anywhere to start a region").wait_for()
    for number in range(1, 10):
        painter.button("Add a region")
        page.keyboard.type(f"thing {number}" if number != 5 else "")
        line, rows = painter.row(number).bounding_box(), page.locator(".fovea-rows").bounding_box()
        assert rows["y"] <= line["y"] + 1 and line["y"] + line["height"] <= rows["y"] + rows["height"] + 1, "in view"
    page.wait_for_timeout(500)
    page.screenshot(path=SHOTS / f"painter_nine_{renderer}_{width or 'wide'}.png")
    assert [region["prompt"] for region in painter.value()["regions"]][3:6] == ["thing 4", "", "thing 6"]
    assert painter.row(5).get_attribute("data-empty") == "true" != painter.row(4).get_attribute("data-empty")
    assert paper.bounding_box()["width"] >= MIN_PAPER and paper.bounding_box()["height"] >= MIN_PAPER
    tops = page.locator(".fovea-tools button").evaluate_all("buttons => buttons.map(button => button.offsetTop)")
    widths = page.locator(".fovea-tools").evaluate("bar => [bar.scrollWidth, bar.clientWidth]")
    assert len(set(tops)) == 1 and widths[0] <= widths[1], "the toolbar is one line"
    root, panel = (page.locator(name).first.bounding_box() for name in (".fovea-painter", ".fovea-whole-prompt"))
    place = page.evaluate(f"[{NODE}.pos[1] + 20, {NODE}.size[1]]")
    assert panel["y"] + panel["height"] <= root["y"] + root["height"] + 1
    assert root["y"] + root["height"] <= sum(place) + (60 if renderer == "vue" else 0), "the node grows"


def test_choosing_does_not_scroll_the_graph(page, client, settings) -> None:
    """Also when the chosen region's line lies beyond the window."""
    painter = alone(page, client, settings, "classic", 400)
    page.locator(".fovea-arrange").select_option(label="Grid of 3 x 3")
    page.evaluate("() => { window.app.canvas.ds.offset = [100, 500]; window.app.canvas.setDirty(true, true); }")
    before = painter.still("stage")
    for number, (x, y) in ((1, (0.2, 0.2)), (3, (0.8, 0.2))):
        page.keyboard.down("Alt")
        page.mouse.click(*painter.at(x, y))
        page.keyboard.up("Alt")
        assert painter.row(number).get_attribute("data-chosen") == "true"
        after = painter.still("stage")
        assert (after["x"], after["y"]) == (before["x"], before["y"])
    assert not page.evaluate("[...document.querySelectorAll('*')].filter(e => e.scrollTop && !e.matches('.fovea-rows'))"
                             ".length")  # fmt: skip


def test_full_screen_has_the_regions_beside(page, client, settings) -> None:
    painter = alone(page, client, settings, "classic")
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.6, 0.6))
    painter.prompt(1).fill("a plain red star")
    painter.button("Full screen")
    page.locator("dialog.fovea-full[open] .fovea-panel").wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=SHOTS / "painter_full.png")
    paper, row = page.locator(".fovea-paper").first.bounding_box(), painter.row(1).bounding_box()
    assert paper["height"] > 0.75 * 1080 and row["x"] > paper["x"] + paper["width"]
    assert page.locator(".fovea-tag").first.inner_text() == "1 a plain red star"
    assert page.locator("[data-tool=bucket] .fovea-word").inner_text() == "Fill"


def test_settings_of_a_region(page, client, settings, loras) -> None:
    """All that the fold-out has is in the drawing, and what the server makes of it."""
    from fovea.guidance.regions import painter_format

    file = loras / "a_style.safetensors"
    save_file({"x.lora_up.weight": torch.ones(2, 2)}, file)
    painter = alone(page, client, settings, "classic")
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.6, 0.6))
    painter.row(1).get_by_role("button", name="Settings of region 1").click()
    row = painter.row(1)
    row.get_by_label("Negative prompt (not here)").fill("a {face|hand}")
    for label, value in (("Strength", "0.5"), ("From %", "10"), ("To %", "62.5")):
        row.get_by_label(label, exact=True).fill(value)
        row.get_by_label(label, exact=True).press("Enter")
    row.get_by_role("button", name="blue").click()
    row.get_by_text("Covers 25% of the picture").wait_for()
    (read,) = painter_format.parse(painter.text()).rows
    assert (read.strength, read.start_percent, read.end_percent) == (0.5, 0.1, 0.625)
    assert read.negative_prompt in ("a face", "a hand")
    assert read.color == "#2563eb" and read.is_color_of_object
    assert row.get_by_role("button", name="Settings").get_attribute("data-set") == "true"
    row.get_by_text("The object has this color").click()
    assert not painter_format.parse(painter.text()).rows[0].is_color_of_object
    row.get_by_label("LoRA", exact=True).last.select_option(file.name)
    row.get_by_label("Strength of the LoRA").fill("0.25")
    row.get_by_label("Strength of the LoRA").press("Enter")
    assert painter_format.parse(painter.text()).rows[0].loras == ((file.name, 0.25),)
    page.screenshot(path=SHOTS / "painter_settings.png")
    row.get_by_role("button", name="Remove this LoRA").click()
    assert painter_format.parse(painter.text()).rows[0].loras == ()
    for _ in range(5):
        painter.button("Undo")
    (read,) = painter_format.parse(painter.text()).rows
    assert (read.start_percent, read.end_percent, read.loras, read.is_color_of_object) == (0.1, 0.625, (), False)
    assert not page.ours()


def test_an_emptied_number_stays_what_it_was(page, client, settings) -> None:
    painter = alone(page, client, settings, "classic")
    painter.tool("rectangle")
    painter.drag((0, 0.1), (0.6, 0.6))
    text = painter.text()

    def empty(field: Any) -> None:
        for key in ("Tab", "Enter"):
            before = field.input_value()
            field.fill("")
            field.press(key)
            assert painter.text() == text and field.input_value() == before != ""

    for label in ("Left", "Width"):
        empty(page.locator(".fovea-box").get_by_label(label, exact=True))
    painter.button("Settings of region 1")
    for label in ("Strength", "From %", "To %"):
        empty(painter.row(1).get_by_label(label, exact=True))


def test_masks_come_in_and_go_out(page, client, settings) -> None:
    """Black and white is a region, several files are several, gray stays gray; nothing wipes what is painted."""
    painter = alone(page, client, settings, "classic")
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.6, 0.6))
    first = painter.masks()[1]
    left, ramp = np.zeros((512, 512), np.uint8), np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    left[:, :256] = 255
    give(page, 0, ("left.png", png(left)), ("ramp.png", png(ramp)))
    eventually(lambda: len(painter.value()["regions"]) == 3)
    masks = painter.masks()
    assert np.array_equal(masks[1], first)
    assert np.array_equal(masks[2][:, : SIDE // 2], np.ones((SIDE, SIDE // 2))) and not masks[2][:, SIDE // 2 :].any()
    assert np.abs(masks[3] - ramp[::2, ::2] / 255).max() < 0.04
    painter.button("Undo")
    assert len(painter.value()["regions"]) == 1, "one step"
    painter.button("Redo")
    cut_out = np.zeros((64, 64, 4), np.uint8)
    cut_out[32:, :, 3] = 255
    give(page, 0, ("alpha.png", png(cut_out)))
    eventually(lambda: len(painter.value()["regions"]) == 4)
    assert near(painter.masks()[4], box(0, 0.5, 1, 1)), "a black shape on nothing"
    text = painter.text()
    photo = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    give(page, 0, ("photo.png", png(photo)))
    page.get_by_text("photo.png is neither a mask nor a picture in flat colors").wait_for()
    give(page, 0, ("black.png", png(np.zeros((64, 64), np.uint8))))
    page.get_by_text("No region was found in black.png").wait_for()
    assert painter.text() == text
    colors = np.full((SIDE, SIDE, 3), 255, np.uint8)
    colors[:64, :64] = (0, 90, 20)  # not a row's color
    give(page, 0, ("colors.png", png(colors)))
    eventually(lambda: len(painter.value()["regions"]) == 5)
    assert np.array_equal(painter.masks()[1], first) and painter.masks()[5].sum() == 64 * 64
    painter.row(3).get_by_role("button", name="Settings of region 3").click()
    with page.expect_download() as waiting:
        painter.button("Save this region's mask")
    out = np.array(Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes())).convert("L"))
    assert waiting.value.suggested_filename == "region_3.png"
    assert np.abs(out / 255 - masks[3]).max() < 0.01


def test_a_picture_of_flat_colors_adds(page, client, settings) -> None:
    """To the region of a color, whose shapes and paint stay as they are."""
    painter = alone(page, client, settings, "classic")
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.4, 0.4))
    painter.tool("brush")
    page.get_by_label("Hardness", exact=True).fill("40")
    painter.drag((0.6, 0.2), (0.9, 0.2))
    before, (region,) = painter.masks()[1], painter.value()["regions"]
    colors = np.full((SIDE, SIDE, 3), 255, np.uint8)
    colors[200:, :64] = [int(region["color"][at : at + 2], 16) for at in (1, 3, 5)]
    give(page, 0, ("colors.png", png(colors)))
    eventually(lambda: painter.masks()[1][210, 10] == 1)
    wanted = before.copy()
    wanted[200:, :64] = 1
    (after,) = painter.value()["regions"]
    assert np.array_equal(painter.masks()[1], wanted) and after["shapes"] == region["shapes"]
    painter.button("Undo")
    assert painter.value()["regions"] == [region]


def test_the_color_of_the_thing_from_a_picture_behind(page, client, settings) -> None:
    """Any picture can lie behind; the eyedropper takes its color, the paint becomes as clear as one likes."""
    painter = alone(page, client, settings, "vue")
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.6, 0.6))
    painter.tool("eyedropper")
    page.mouse.click(*painter.at(0.2, 0.2))
    page.get_by_text("Choose a background image first").wait_for()
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:, :50], picture[:, 50:] = (12, 34, 56), (200, 100, 0)
    give(page, 1, ("behind.png", png(picture)))
    page.wait_for_function("document.querySelector('.fovea-paper img').naturalWidth > 0")
    assert "behind.png" in page.locator(".fovea-panel select").first.locator("option:checked").inner_text()
    page.get_by_label("Opacity of the paint").fill("20")
    page.mouse.click(*painter.at(0.8, 0.2))
    (region,) = painter.value()["regions"]
    assert region["color"] == "#c86400" and region["is_color_of_object"] is True
    pixel = page.evaluate("""() => { const canvas = document.querySelector('.fovea-paper canvas');
        return [...canvas.getContext('2d').getImageData(64, 64, 1, 1).data]; }""")
    assert np.abs(np.array(pixel[:3]) - (200, 100, 0)).max() <= 3 and pixel[3] == pytest.approx(51, abs=2)
    page.screenshot(path=SHOTS / "painter_behind.png")


def test_pictures_are_let_go(page, client, settings, tmp_path: Path) -> None:
    """Once they are read; a file once another version of it is behind."""
    painter = alone(page, client, settings, "classic")
    page.evaluate("""() => { window.made = []; const { createImageBitmap } = window;
        window.createImageBitmap = async (...given) => {
            const bitmap = await createImageBitmap(...given);
            window.made.push(bitmap);
            return bitmap; };
        window.revoked = []; const { revokeObjectURL } = URL;
        URL.revokeObjectURL = url => {
            window.revoked.push(url);
            revokeObjectURL.call(URL, url); }; }""")
    (tmp_path / "left.png").write_bytes(png(np.repeat([255, 0], 32).astype(np.uint8)[None].repeat(64, 0)))
    page.locator(".fovea-panel input[type=file]").first.set_input_files(tmp_path / "left.png")
    painter.row(1).wait_for()
    text = painter.text()
    page.evaluate(f"text => {{ {NODE}.widgets.find(w => w.name === 'painting').value = text; }}", f"{text} ")
    page.wait_for_function("window.made.length === 2")
    page.wait_for_function("window.made.every(bitmap => bitmap.width === 0)")  # it is closed
    behind = []
    while len(behind) < 2:
        page.locator(".fovea-panel input[type=file]").nth(1).set_input_files(tmp_path / "left.png")
        page.wait_for_function("last => document.querySelector('.fovea-paper img').src !== last", arg="".join(behind))
        behind.append(page.locator(".fovea-paper img").get_attribute("src"))
    assert [url for url in page.evaluate("window.revoked") if url in behind] == behind[:1]


def test_soft_brushes(page, client, settings) -> None:
    """Hardness by number and keys; the edge is gray, in the picture's mask as well."""
    painter = alone(page, client, settings, "classic")
    page.get_by_label("Size", exact=True).fill("80")
    page.get_by_label("Hardness", exact=True).fill("40")
    painter.drag((0.3, 0.5), (0.7, 0.5))
    column = painter.masks()[1][:, SIDE // 2]
    middle = SIDE // 2
    assert column[middle] == 1 and 0.2 < column[middle + 28] < 0.8 and column[middle + 42] == 0
    assert np.all(np.diff(column[middle:]) <= 0) and len(painter.text()) < 8000
    page.locator(".fovea-stage").first.focus()
    page.keyboard.press("Shift+}")
    assert page.get_by_label("Hardness", exact=True).input_value() == "65"
    page.keyboard.press("]")
    assert page.get_by_label("Size", exact=True).input_value() == "102"
