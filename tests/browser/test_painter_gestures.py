"""What comes in between while somebody paints: keys, a second finger, typing, another size, another drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from painter_page import NODE, SIDE, loaded, paint_two, png_url

pytestmark = [pytest.mark.browser, pytest.mark.server]
CHANGE = f"""([name, value]) => {{ const widget = {NODE}.widgets.find(widget => widget.name === name);
    widget.value = value; widget.callback?.(value); }}"""
PAINTING = f"{NODE}.widgets.find(widget => widget.name === 'painting').value"


def given() -> str:
    """A drawing of twelve regions, each with a mask: it takes longer to read than a stroke to write."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:50, :50] = 255
    url = png_url(mask)
    regions = [{"id": at + 1, "color": "#ff0000", "prompt": f"thing {at}", "mask": url} for at in range(12)]
    return json.dumps({"version": 2, "width": SIDE, "height": SIDE, "prompt": "given", "regions": regions})


GIVEN = given()
UNREADABLE = '{"version": 99, "width": 256, "height": 256, "regions": [{"prompt": "of a newer Fovea"}]}'
# Somebody else's finger on a region's line.
TOUCH_ROW = """number => document.querySelector(`.fovea-row[data-number='${number}']`).dispatchEvent(
    new PointerEvent('pointerdown', { pointerId: 7, pointerType: 'touch', bubbles: true }))"""


@pytest.fixture
def painter(page, client, settings):
    """Two regions, a star at the left and a circle at the right, that one chosen; and a third with nothing painted."""
    painter = loaded(page, client, settings, "classic")
    paint_two(painter)
    painter.button("Add a region")
    painter.row(2).locator(".fovea-swatch").click()
    return painter


def hold(painter, *points: tuple[float, float]) -> None:
    """Press at the first point and move to the others, without letting go."""
    painter.page.mouse.move(*painter.at(*points[0]))
    painter.page.mouse.down()
    for point in points[1:]:
        painter.page.mouse.move(*painter.at(*point), steps=5)


@pytest.mark.parametrize("choose", ["key", "finger"])
@pytest.mark.parametrize("other", [1, 3])
def test_a_stroke_stays_in_its_region(painter, choose: str, other: int) -> None:
    """Another one is chosen meanwhile, painted or not: it is left alone, and undo takes back all of the stroke."""
    page, text, before = painter.page, painter.text(), painter.masks()
    painter.tool("brush")
    hold(painter, (0.2, 0.85), (0.5, 0.85))
    if choose == "key":
        page.keyboard.press(str(other))
    else:
        page.evaluate(TOUCH_ROW, other)
    page.mouse.move(*painter.at(0.8, 0.85), steps=5)
    page.mouse.up()
    after = painter.masks()
    assert np.array_equal(after[1], before[1]) and np.array_equal(after[3], before[3])
    painted = (after[2] > before[2]).any(axis=0)
    assert painted[int(0.3 * SIDE)] and painted[int(0.7 * SIDE)], "all of the stroke"
    painter.button("Undo")
    assert painter.text() == text and not page.ours()


@pytest.mark.parametrize("tool", ["move", "rectangle"])
def test_what_is_moved_stays_the_same(painter, tool: str) -> None:
    """A region, or a handle of its shape, while another region is chosen."""
    page, before = painter.page, painter.masks()
    painter.tool(tool)
    page.mouse.click(*painter.at(0.75, 0.5))  # its shape has handles
    hold(painter, (0.75, 0.5) if tool == "move" else (0.94, 0.7), (0.7, 0.6))
    page.keyboard.press("1")
    page.mouse.move(*painter.at(0.75, 0.8), steps=5)
    page.mouse.up()
    after = painter.masks()
    assert np.array_equal(after[1], before[1]) and not np.array_equal(after[2], before[2])
    assert not page.ours()


@pytest.mark.parametrize("tool", ["brush", "lasso", "bucket"])
def test_a_click_that_paints_nothing_begins_no_region(page, client, settings, tool: str) -> None:
    """Beside the paper, or with a tool that must be dragged."""
    painter = loaded(page, client, settings, "classic")
    page.wait_for_timeout(500)  # the panel finds its place
    page.get_by_label("Size", exact=True).fill("4")
    painter.tool(tool)
    page.evaluate(CHANGE, ["height", SIDE // 2])  # there is room over the paper
    painter.still()
    page.mouse.click(*painter.at(0.5, 0.5 if tool == "lasso" else -0.3))
    assert painter.text() == "" and page.locator(".fovea-row").count() == 0
    assert page.get_by_role("button", name="Undo").first.is_disabled()
    painter.tool("brush")
    painter.drag((0.2, 0.5), (0.8, 0.5))
    assert len(painter.value()["regions"]) == 1 and not page.ours()


@pytest.mark.parametrize("act", ["hide", "type"])
def test_other_changes_take_a_stroke_back(painter, act: str) -> None:
    """What is changed elsewhere while somebody paints is kept, by itself."""
    page, before = painter.page, painter.masks()
    painter.tool("brush")
    hold(painter, (0.2, 0.85), (0.5, 0.85))
    if act == "hide":
        page.evaluate("document.querySelector(`.fovea-row[data-number='1'] [title='Hide this region']`).click()")
    else:
        page.evaluate("""() => { const field = document.querySelector(`.fovea-row[data-number='1'] textarea`);
            field.focus(); field.value = 'a sun'; field.dispatchEvent(new Event('input')); }""")
    page.mouse.move(*painter.at(0.8, 0.85), steps=5)
    page.mouse.up()
    assert np.array_equal(painter.masks()[2], before[2])
    first = painter.value()["regions"][0]
    assert first.get("hidden", False) == (act == "hide") and (first["prompt"] == "a sun") == (act == "type")
    painter.row(2).locator(".fovea-swatch").click()
    painter.drag((0.2, 0.85), (0.5, 0.85))
    assert (painter.masks()[2] > before[2]).sum() > 500, "the next stroke is kept"
    assert not page.ours()


@pytest.mark.parametrize("way", [(1, 1), (-1, -1), (1, -1)])
def test_a_shape_may_be_drawn_far_beyond_the_paper(painter, way: tuple[int, int]) -> None:
    """As far as a drawing may go; what of it is on the paper is what was drawn."""
    from fovea.guidance.regions import painter_format

    page = painter.page
    for side in ("width", "height"):
        page.evaluate(CHANGE, [side, 16])  # a paper like this has room for many of its kind beside it
    page.evaluate("() => { window.app.canvas.ds.scale = 0.3; window.app.canvas.setDirty(true, true); }")
    painter.still()
    page.locator(".fovea-stage").first.focus()
    page.keyboard.press("3")
    page.keyboard.press("r")
    page.keyboard.down("Control")
    painter.drag((0.5, 0.5), tuple(0.5 + 5.5 * step for step in way))
    mask = painter.masks()[3]
    wanted = [slice(8, 16) if step > 0 else slice(0, 8) for step in way]
    assert mask[wanted[1], wanted[0]].all() and mask.sum() == 64
    (shape,) = painter_format.parse(painter.text()).rows[2].shapes
    corner = [place + size if step > 0 else place for place, size, step in zip(shape.box[:2], shape.box[2:], way)]
    painter.drag(tuple(corner), tuple(0.5 + 6.5 * step for step in way))  # its handle
    page.keyboard.up("Control")
    assert np.array_equal(painter.masks()[3], mask)


def test_an_unreadable_drawing_is_left_alone(painter) -> None:
    """Whatever the size is; painting replaces it, undo brings it back, also at another size."""
    page = painter.page
    page.evaluate(f"text => {{ {PAINTING} = text; }}", UNREADABLE)
    page.get_by_text("The drawing cannot be read").wait_for()
    for side, pixels in (("width", 512), ("height", 320)):
        page.evaluate(CHANGE, [side, pixels])
        assert page.evaluate(PAINTING) == UNREADABLE
    painter.drag((0.2, 0.3), (0.8, 0.7))
    assert painter.value()["width"] == 512 and painter.value()["height"] == 320
    page.evaluate(CHANGE, ["width", 256])
    painter.button("Undo")
    assert painter.text() == UNREADABLE
    painter.button("Redo")
    assert len(painter.value()["regions"]) == 1


def read(painter) -> None:
    painter.page.wait_for_function("document.querySelector('.fovea-whole-prompt textarea').value === 'given'",
                                   timeout=20_000)  # fmt: skip


def test_a_stroke_does_not_outrun_a_drawing(painter) -> None:
    """It ends before a drawing that somebody gave is read: that one comes, as it is, and takes other sizes."""
    page = painter.page
    painter.tool("brush")
    painter.at_once(("down", 0.2, 0.8), ("move", 0.5, 0.8), ("up", 0.5, 0.8), text=GIVEN)
    read(painter)
    page.wait_for_timeout(300)  # a stroke would be written by then
    assert painter.text() == GIVEN
    page.evaluate(CHANGE, ["width", 512])
    assert painter.value()["width"] == 512 and painter.masks()[1].shape == (SIDE, 512)
    first = painter.masks()[1]
    painter.drag((0.2, 0.8), (0.5, 0.8))
    painter.button("Undo")
    assert painter.value()["width"] == 512 and np.array_equal(painter.masks()[1], first) and not page.ours()


def test_a_stroke_under_way_leaves_a_drawing_alone(painter) -> None:
    """Begun before the drawing is read, ended later."""
    page = painter.page
    painter.tool("brush")
    painter.at_once(("down", 0.2, 0.8), ("move", 0.5, 0.8), text=GIVEN)
    read(painter)
    painter.at_once(("move", 0.8, 0.8), ("up", 0.8, 0.8))
    page.wait_for_timeout(300)
    assert painter.text() == GIVEN
    places = painter.masks()
    painter.row(1).get_by_role("button", name="Bring forward").click()
    assert all(np.array_equal(place, places[row]) for row, place in painter.masks().items()), "none is painted"
    painter.button("Undo")
    assert painter.text() == GIVEN and not page.ours()


def test_a_stroke_that_is_still_being_written(painter) -> None:
    """Its text comes later than the drawing that somebody gives."""
    painter.tool("brush")
    painter.at_once(("down", 0.2, 0.8), ("move", 0.5, 0.8), ("up", 0.5, 0.8))
    painter.at_once(text=GIVEN)
    read(painter)
    painter.page.wait_for_timeout(300)
    assert painter.text() == GIVEN


def test_typing_does_not_outrun_a_drawing(painter) -> None:
    """Letters that come before it is read are gone with the drawing that they were typed in; so is their undo."""
    page = painter.page
    page.locator(".fovea-whole-prompt textarea").focus()
    page.keyboard.type("old ")
    page.evaluate(f"""text => {{ {PAINTING} = text;
        const field = document.querySelector('.fovea-whole-prompt textarea');
        field.value += ' more'; field.dispatchEvent(new Event('input')); }}""", GIVEN)  # fmt: skip
    read(painter)
    assert painter.text() == GIVEN
    page.keyboard.press("End")
    page.keyboard.type(" new")
    assert painter.value()["prompt"] == "given new"
    page.locator(".fovea-stage").first.focus()
    painter.button("Undo")
    assert painter.text() == GIVEN and page.get_by_role("button", name="Undo").first.is_disabled()


def test_the_last_of_several_drawings_comes(painter) -> None:
    """Also when it is the first one's text again."""
    page, other = painter.page, GIVEN.replace("given", "other")
    page.evaluate(f"texts => texts.forEach(text => {{ {PAINTING} = text; }})", [GIVEN, other, GIVEN])
    read(painter)
    page.wait_for_timeout(300)
    assert painter.text() == GIVEN and not page.ours()
    page.evaluate(CHANGE, ["width", 512])
    assert painter.value()["width"] == 512
