"""Which finger, button and end of a pen does what on the paper, in both renderers, and what the graph hears of it."""

from __future__ import annotations

import numpy as np
import pytest
from painter_page import SIDE, Fingers, Painter, loaded, png

pytestmark = [pytest.mark.browser, pytest.mark.server]
both_renderers = pytest.mark.parametrize("renderer", ["classic", "vue"])
SEEN = "[window.app.canvas.ds.scale, ...window.app.canvas.ds.offset]"  # of the graph
CORNERS = ((0.2, 0.2), (0.7, 0.2), (0.7, 0.7))
# A pen's other end on the stage, from one point of the page to another.
RUB = """points => {
    const stage = document.querySelector('.fovea-stage'), last = points.length - 1;
    points.forEach(([clientX, clientY], at) => stage.dispatchEvent(new PointerEvent(
        at === 0 ? 'pointerdown' : at === last ? 'pointerup' : 'pointermove', {
            pointerId: 1, pointerType: 'pen', pressure: 1, button: at % last ? -1 : 5, buttons: at === last ? 0 : 32,
            clientX, clientY, bubbles: true, cancelable: true }))); }"""
# A pen that presses so hard, from one point of the page to another.
PRESS = """([points, pressure]) => {
    const stage = document.querySelector('.fovea-stage'), last = points.length - 1;
    points.forEach(([clientX, clientY], at) => stage.dispatchEvent(new PointerEvent(
        at === 0 ? 'pointerdown' : at === last ? 'pointerup' : 'pointermove', {
            pointerId: 1, pointerType: 'pen', pressure, button: at % last ? -1 : 0, buttons: at === last ? 0 : 1,
            clientX, clientY, bubbles: true, cancelable: true }))); }"""


def begun(page, client, settings, renderer: str = "classic") -> Painter:
    """One region: a rectangle."""
    painter = loaded(page, client, settings, renderer)
    page.wait_for_timeout(500)  # the panel finds its place
    painter.tool("rectangle")
    painter.drag((0.1, 0.1), (0.9, 0.9))
    return painter


def show_behind(painter: Painter, color: tuple[int, int, int]) -> None:
    file = {"name": "behind.png", "mimeType": "image/png", "buffer": png(np.full((8, 8, 3), color, np.uint8))}
    painter.page.locator(".fovea-panel input[type=file]").nth(1).set_input_files([file])
    painter.page.wait_for_function("document.querySelector('.fovea-paper img').naturalWidth > 0")


@both_renderers
@pytest.mark.parametrize("full", [False, True])
def test_a_pinch_is_the_papers_alone(page, client, settings, renderer: str, full: bool) -> None:
    painter, fingers = begun(page, client, settings, renderer), Fingers(page)
    if full:
        painter.button("Full screen")
        page.locator("dialog.fovea-full[open] .fovea-panel").wait_for()
    painter.still()
    graph, text = page.evaluate(SEEN), painter.text()
    fingers.pinch(painter.at(0.4, 0.5), painter.at(0.6, 0.5))
    assert painter.zoom() > 1.2 and page.evaluate(SEEN) == graph and painter.text() == text
    if full:
        page.keyboard.press("Escape")
        page.locator("dialog.fovea-full").wait_for(state="detached")
    elif renderer == "classic":  # the graph's own touches are as before
        fingers.pinch((150, 700), (300, 700))
        assert page.evaluate(SEEN) != graph
    graph = page.evaluate(SEEN)
    page.mouse.move(150, 800)
    page.mouse.down(button="middle")
    page.mouse.move(250, 850, steps=5)
    page.mouse.up(button="middle")
    assert page.evaluate(SEEN) != graph, "the graph still hears the mouse"


def test_a_pinch_leaves_an_open_polygon_alone(page, client, settings) -> None:
    """Its first finger adds no corner, and the second takes none away."""
    painter, fingers = loaded(page, client, settings, "classic"), Fingers(page)
    painter.button("Add a region")
    painter.tool("polygon")
    painter.still()
    for corner in CORNERS:
        fingers.tap(painter.at(*corner))
    fingers.pinch(painter.at(0.3, 0.9), painter.at(0.5, 0.9))
    page.locator(".fovea-stage").first.focus()
    page.keyboard.press("Enter")
    mask = painter.masks()[1]
    assert mask.mean() == pytest.approx(0.125, abs=0.01) and mask[int(0.3 * SIDE), int(0.6 * SIDE)] == 1


def test_a_pinch_takes_no_color_and_no_choice(page, client, settings) -> None:
    painter, fingers = begun(page, client, settings), Fingers(page)
    show_behind(painter, (12, 34, 56))
    text = painter.text()
    painter.tool("eyedropper")
    fingers.pinch(painter.at(0.4, 0.5), painter.at(0.6, 0.5))
    assert painter.text() == text
    fingers.tap(painter.at(0.5, 0.5))
    assert painter.value()["regions"][0]["color"] == "#0c2238", "one finger takes it"
    painter.button("Fit to view")
    painter.button("Add a region")
    painter.tool("move")
    painter.still()
    fingers.pinch(painter.at(0.4, 0.5), painter.at(0.6, 0.5))
    assert painter.row(2).get_attribute("data-chosen") == "true"
    painter.button("Fit to view")
    painter.still()
    fingers.tap(painter.at(0.5, 0.5))
    assert painter.row(1).get_attribute("data-chosen") == "true", "one finger chooses"


@both_renderers
def test_the_middle_button_moves_the_paper(page, client, settings, renderer: str) -> None:
    """And not the graph, nor the node."""
    painter = begun(page, client, settings, renderer)
    graph, text, place = page.evaluate(SEEN), painter.text(), painter.still()
    (x, y), zoom = painter.at(0.5, 0.5), page.evaluate("window.app.canvas.ds.scale")
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(x + 40, y + 30, steps=5)
    page.mouse.up(button="middle")
    page.mouse.move(x, y)
    moved = painter.still()
    assert (moved["x"] - place["x"], moved["y"] - place["y"]) == pytest.approx((40, 30), abs=1), zoom
    assert page.evaluate(SEEN) == graph and painter.text() == text


@pytest.mark.parametrize("tool", ["polygon", "eyedropper", "brush"])
@pytest.mark.parametrize("by", ["right button", "pen"])
def test_they_erase_with_every_tool(page, client, settings, tool: str, by: str) -> None:
    """No corner and no color comes from what erases."""
    painter = begun(page, client, settings)
    show_behind(painter, (12, 34, 56))
    before, row = painter.masks()[1], painter.value()["regions"][0]
    painter.tool(tool)
    if tool == "polygon":
        page.mouse.click(*painter.at(0.05, 0.05))
    points = [(0.3, 0.5), (0.5, 0.5), (0.7, 0.5)]
    if by == "pen":
        page.mouse.move(*painter.at(0.3, 0.5))
        page.evaluate(RUB, [painter.at(*point) for point in points])
    else:
        painter.drag(*points, button="right")
    after = painter.masks()[1]
    assert after[SIDE // 2, SIDE // 2] == 0 and np.all(after <= before)
    assert painter.value()["regions"][0]["color"] == row["color"]
    if tool == "polygon":
        page.mouse.click(*painter.at(0.05, 0.95))
        page.locator(".fovea-stage").first.focus()
        page.keyboard.press("Enter")
        assert np.array_equal(painter.masks()[1], after), "two corners are no polygon"


def test_a_pens_lightest_touch_paints_least(page, client, settings) -> None:
    painter = loaded(page, client, settings, "classic")
    page.wait_for_timeout(500)  # the panel finds its place
    painter.tool("brush")
    painted = []
    for at, pressure in enumerate((0, 0.5, 1)):
        y = 0.2 + 0.3 * at
        page.mouse.move(*painter.at(0.2, y))
        page.evaluate(PRESS, [[painter.at(x, y) for x in (0.2, 0.5, 0.8)], pressure])
        painted.append(painter.masks()[1].sum() - sum(painted))
    assert 0 < painted[0] < 0.6 * painted[1] < 0.6 * painted[2]
