"""Whose the next key and the next turn of the wheel are: the painter's, whatever of its panel was used before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from painter_page import NODE, SIDE, Painter, loaded, press_with_control

pytestmark = [pytest.mark.browser, pytest.mark.server]
both_renderers = pytest.mark.parametrize("renderer", ["classic", "vue"])
both_places = pytest.mark.parametrize("full", [False, True], ids=["in place", "full screen"])
SEEN = "[window.app.canvas.ds.scale, ...window.app.canvas.ds.offset]"  # of the graph
SAME = f"window.before === {NODE}"  # the graph's undo makes the node anew
SIDEBAR = "window.app.extensionManager.sidebarTab.activeSidebarTabId"
STEP = 700  # ms until a change is a step of the graph's undo, or the graph's undo is over


@pytest.fixture
def begin(page, client, settings) -> Callable[..., Painter]:
    """A painter with one region, a rectangle; the page knows its node."""

    def begun(renderer: str, full: bool = False) -> Painter:
        painter = loaded(page, client, settings, renderer)
        page.wait_for_timeout(500)  # the panel finds its place
        painter.tool("rectangle")
        painter.drag((0.1, 0.1), (0.6, 0.6))
        page.wait_for_timeout(STEP)
        page.evaluate(f"() => {{ window.before = {NODE}; }}")
        if full:
            enter_full(painter)
        return painter

    return begun


def enter_full(painter: Painter) -> None:
    painter.button("Full screen")
    painter.page.locator("dialog.fovea-full[open] .fovea-panel").wait_for()
    painter.still()


def count(painter: Painter) -> int:
    return len(painter.value().get("regions", []))


def undo_by_key(page: Any) -> None:
    page.wait_for_timeout(STEP)
    press_with_control(page, "z")
    page.wait_for_timeout(STEP)


@both_renderers
@both_places
def test_a_button_that_is_gone_leaves_the_keys_here(page, begin, renderer: str, full: bool) -> None:
    """It was removed, hidden or disabled by its own click."""
    painter = begin(renderer, full)
    text = painter.text()
    for button in ("Hide this region", "Clear the chosen region", "Delete region 1"):
        painter.button(button)
        assert painter.text() != text, button
        undo_by_key(page)
        assert painter.text() == text and page.evaluate(SAME), button
    assert page.locator("dialog.fovea-full[open]").count() == full and not page.ours()


def test_a_field_that_is_gone_leaves_the_keys_here(page, begin) -> None:
    """A slider of the brush, once a key has chosen a tool without it."""
    painter = begin("classic")
    painter.tool("brush")
    page.locator(".fovea-options input[type=range]").first.focus()
    page.keyboard.press("r")
    undo_by_key(page)
    assert count(painter) == 0 and page.evaluate(SAME)


def test_the_way_back_from_the_full_screen(page, begin) -> None:
    painter = begin("classic", full=True)
    page.keyboard.press("Escape")
    page.locator("dialog.fovea-full").wait_for(state="detached")
    undo_by_key(page)
    assert count(painter) == 0 and page.evaluate(SAME)


@both_renderers
def test_delete_beside_the_buttons_spares_the_node(page, begin, renderer: str) -> None:
    begin(renderer)
    page.evaluate(f"() => window.app.canvas.selectItems([{NODE}])")
    middle = "one => { const { x, width } = one.getBoundingClientRect(); return x + width / 2; }"
    bar = page.locator(".fovea-tools").first.bounding_box()
    page.mouse.click(page.locator(".fovea-tools .fovea-gap").evaluate(middle), bar["y"] + bar["height"] / 2)
    page.keyboard.press("Delete")
    page.wait_for_timeout(STEP)
    assert page.evaluate(SAME)


@both_renderers
def test_an_arrangement_is_made_once(page, begin, renderer: str) -> None:
    """The next key is the painter's. By keys, Enter makes it."""
    painter, arrange = begin(renderer), page.locator(".fovea-arrange")
    arrange.focus()
    arrange.select_option(label="2 columns")
    assert count(painter) == 3
    page.keyboard.press("2")
    assert count(painter) == 3 and painter.row(2).get_attribute("data-chosen") == "true"
    undo_by_key(page)
    assert count(painter) == 1 and page.evaluate(SAME)
    arrange.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert count(painter) == 1
    page.keyboard.press("Enter")
    assert count(painter) == 4, "three columns"


@both_renderers
@pytest.mark.parametrize("field", [".fovea-bar > select", ".fovea-arrange", ".fovea-check input"])
def test_undo_from_lists_and_boxes(page, begin, renderer: str, field: str) -> None:
    painter = begin(renderer)
    painter.button("Settings of region 1")
    page.locator(field).first.focus()
    undo_by_key(page)
    assert count(painter) == 0 and page.evaluate(SAME)


@both_renderers
@both_places
def test_the_wheel_over_the_paper_is_the_papers(page, begin, renderer: str, full: bool) -> None:
    """Without the focus, and with Ctrl, as pinching a trackpad is."""
    painter = begin(renderer, full)
    painter.tool("rectangle")
    painter.still()
    graph = page.evaluate(SEEN)
    page.mouse.move(*painter.at(0.5, 0.5))
    page.mouse.wheel(0, -100)
    first = painter.zoom()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    assert 1 < first < painter.zoom() and page.evaluate(SEEN) == graph
    if full:  # beside the paper, too
        prompt = painter.prompt(1).bounding_box()
        page.mouse.move(prompt["x"] + 9, prompt["y"] + 9)
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(300)
        assert page.evaluate(SEEN) == graph


@both_renderers
def test_letters_in_the_full_screen_open_nothing_behind_it(page, begin, renderer: str) -> None:
    painter = begin(renderer)
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})
    page.keyboard.press("n")
    page.wait_for_function(f"{SIDEBAR} !== null")  # on the graph it does
    page.evaluate(f"() => {{ {SIDEBAR} = null; }}")
    enter_full(painter)
    for letter in "nwma":
        page.keyboard.press(letter)
        assert page.evaluate(SIDEBAR) is None, letter
    page.keyboard.press("Escape")
    page.locator("dialog.fovea-full").wait_for(state="detached")
    assert page.evaluate(SIDEBAR) is None


def test_the_space_bar_ends_with_the_focus(page, begin) -> None:
    """Whoever lets it go elsewhere paints again."""
    painter = begin("classic")
    before = painter.masks()[1]
    page.locator(".fovea-stage").first.focus()
    page.keyboard.down(" ")
    page.evaluate("document.querySelector('.fovea-stage').blur()")
    page.keyboard.up(" ")
    painter.tool("brush")
    painter.drag((0.7, 0.8), (0.9, 0.8))
    assert (painter.masks()[1] > before)[int(0.8 * SIDE), int(0.8 * SIDE)]
    assert np.all(painter.masks()[1] >= before)
