"""The painter and its editor: the graph's undo, other workflows, subgraphs, refreshed lists."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from painter_page import NODE, ROOT, loaded, png, press_with_control
from safetensors.torch import save_file

pytestmark = [pytest.mark.browser, pytest.mark.server]
both_renderers = pytest.mark.parametrize("renderer", ["classic", "vue"])
INSIDE = "[...window.app.graph.rootGraph.subgraphs.values()][0].nodes.find(node => node.type === 'FoveaRegionPainter')"
PRESSED = "document.querySelector('[data-tool={}]')?.getAttribute('aria-pressed') === 'true'"


def test_another_workflow_begins_anew(page, client, settings) -> None:
    """Its painter has the same number, and is opened at once: tools stay with their own."""
    painter = loaded(page, client, settings, "classic")
    painter.tool("lasso")
    graph = json.loads((ROOT / "workflows" / "1 Paint with words (demo).json").read_text(encoding="utf-8"))
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.wait_for_function(PRESSED.format("brush"))
    page.wait_for_timeout(500)
    assert page.evaluate(PRESSED.format("brush"))
    painter.tool("rectangle")
    page.locator(".workflow-tab").nth(-2).click()
    page.wait_for_function(f"{NODE}?.widgets?.find(widget => widget.name === 'painting')?.value === ''")
    page.wait_for_timeout(500)
    assert not page.evaluate(PRESSED.format("rectangle"))


@both_renderers
def test_the_graphs_undo_inside_a_subgraph(page, client, settings, renderer: str) -> None:
    """The tool stays, and painters that are gone leave nothing behind."""
    painter = loaded(page, client, settings, renderer)
    painter.button("Add a region")
    page.evaluate(f"() => {{ window.app.graph.convertToSubgraph(new Set([{NODE}])); }}")
    page.evaluate("() => window.app.canvas.setGraph([...window.app.graph.subgraphs.values()][0])")
    page.locator(".fovea-stage").first.wait_for()
    page.wait_for_timeout(1000)
    painter.tool("rectangle")
    painter.still()
    painter.drag((0.1, 0.1), (0.3, 0.3))
    first = painter.map(INSIDE)
    page.wait_for_timeout(700)  # the graph's step of undo
    painter.drag((0.6, 0.6), (0.9, 0.9))
    page.wait_for_timeout(700)
    page.evaluate(f"""() => {{ const widget = {INSIDE}.widgets.find(widget => widget.name === 'painting');
        const {{ onRemove }} = widget; window.removed = 0;
        widget.onRemove = function (...given) {{ window.removed++; return onRemove.apply(this, given); }}; }}""")
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})
    press_with_control(page, "z")
    for _ in range(50):
        if np.array_equal(painter.map(INSIDE), first):
            break
        page.wait_for_timeout(100)
    assert np.array_equal(painter.map(INSIDE), first)
    assert page.evaluate("window.removed") == 1
    page.wait_for_function(PRESSED.format("rectangle"))
    assert page.locator(".fovea-painter").count() == 1
    assert not page.ours()


@both_renderers
def test_painting_goes_on_after_the_graphs_undo(page, client, settings, renderer: str) -> None:
    """And after its redo: the node is another, and so is what is shown of it."""
    painter = loaded(page, client, settings, renderer)
    painter.tool("rectangle")
    painter.still()
    painter.drag((0.1, 0.1), (0.3, 0.3))
    page.wait_for_timeout(700)  # the graph's step of undo
    painter.drag((0.6, 0.6), (0.9, 0.9))
    page.wait_for_timeout(700)
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})
    for key in ("z", "y"):
        before = painter.text()
        press_with_control(page, key)
        page.wait_for_function(f"text => {NODE}?.widgets.find(w => w.name === 'painting').value !== text", arg=before)
        page.wait_for_function(PRESSED.format("rectangle"))
        painter.still()
    text, first = painter.text(), painter.map()
    painter.drag((0.1, 0.6), (0.4, 0.9))
    assert (painter.map() != first).sum() > 1000
    press_with_control(page, "z")
    painter.settled(first)
    assert painter.text() == text and page.locator(".fovea-painter").count() == 1 and not page.ours()


# The painter's text in the editor's newest draft.
DRAFT = """() => {
    const all = Object.values(localStorage).filter(text => text.includes('FoveaRegionPainter')).map(JSON.parse);
    const { data } = all.filter(draft => draft.data).sort((a, b) => b.updatedAt - a.updatedAt)[0];
    return JSON.parse(data).nodes.find(node => node.type === 'FoveaRegionPainter').widgets_values.at(-1); }"""
HIDDEN_FOR_A_MOMENT = """async () => {
    const wait = (time) => new Promise(resolve => setTimeout(resolve, time));
    const press = (label) => document.querySelector(`.fovea-panel button[aria-label^="${label}"]`).click();
    await wait(700);
    press("Hide this region");
    await wait(260);
    press("Undo"); }"""


@both_renderers
def test_the_draft_is_what_is_seen(page, client, settings, renderer: str) -> None:
    """The editor writes its draft half a second after it has seen a change: here between another one and its undo."""
    painter = loaded(page, client, settings, renderer)
    painter.tool("rectangle")
    painter.still()
    painter.drag((0.1, 0.1), (0.3, 0.3))
    text = painter.text()
    page.evaluate(HIDDEN_FOR_A_MOMENT)
    assert painter.text() == text
    page.wait_for_timeout(2500)
    assert page.evaluate(DRAFT) == text


@both_renderers
def test_another_workflow_lets_go_of_painters_in_subgraphs(page, client, settings, renderer: str) -> None:
    """The editor tells nodes that they go, but not those in subgraphs. Each is let go of once."""
    loaded(page, client, settings, renderer)
    graph = page.evaluate("() => window.app.graph.serialize()")
    page.evaluate(f"() => {{ window.app.graph.convertToSubgraph(new Set([{NODE}])); }}")
    page.evaluate(f"""() => {{
        const node = window.LiteGraph.createNode('FoveaRegionPainter');
        window.app.graph.add(node);
        window.removed = [];
        for (const [name, one] of Object.entries({{ inside: {INSIDE}, beside: node }})) {{
            const widget = one.widgets.find(widget => widget.name === 'painting'), {{ onRemove }} = widget;
            widget.onRemove = function (...given) {{ window.removed.push(name); return onRemove.apply(this, given); }};
        }} }}""")
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.locator(".fovea-stage").first.wait_for()
    page.wait_for_function("window.removed.length >= 2")
    assert sorted(page.evaluate("window.removed")) == ["beside", "inside"]
    assert page.locator(".fovea-painter").count() == 1 and not page.ours()


LOADER = "window.app.graph.nodes.find(node => node.type === 'LoadImage')"
# Load Image, connected to the painter, or with another file.
LOAD = f"""name => {{
    const {{ graph }} = window.app, loader = {LOADER} ?? window.LiteGraph.createNode('LoadImage');
    if (!loader.graph) {{
        loader.pos = [-600, 0];
        graph.add(loader);
        loader.connect(0, {NODE}, {NODE}.inputs.findIndex(input => input.name === 'image'));
    }}
    const widget = loader.widgets.find(widget => widget.name === 'image');
    widget.value = name;
    widget.callback(name); }}"""
SHOWN = "document.querySelector('.fovea-paper img:not([hidden])')?.naturalWidth === {}"


def upload(client, name: str, side: int) -> None:
    files = {"image": (name, png(np.full((side, side, 3), (0, 128, 128), np.uint8)), "image/png")}
    client.session.post(f"{client.address}/upload/image", files=files, timeout=60).raise_for_status()


@both_renderers
def test_the_picture_of_load_image_lies_behind(page, client, settings, renderer: str) -> None:
    """It has not run; the graph's undo keeps it chosen, and another file takes its place."""
    for side in (24, 40):
        upload(client, f"behind_{side}.png", side)
    painter = loaded(page, client, settings, renderer)
    page.evaluate(LOAD, "behind_24.png")
    chosen = page.locator(".fovea-panel select").first
    chosen.focus()
    chosen.locator("option[value=input]").wait_for(state="attached")
    chosen.select_option("input")
    page.wait_for_function(SHOWN.format(24))
    painter.tool("rectangle")
    painter.still()
    painter.drag((0.1, 0.1), (0.3, 0.3))
    first = painter.map()
    page.wait_for_timeout(700)  # the graph's step of undo
    painter.drag((0.6, 0.6), (0.9, 0.9))
    page.wait_for_timeout(700)
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})
    press_with_control(page, "z")
    painter.settled(first)
    page.wait_for_function(SHOWN.format(24))
    assert chosen.input_value() == "input"
    page.evaluate(LOAD, "behind_40.png")
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})  # the editor looks for changes then
    page.wait_for_function(SHOWN.format(40))
    assert not page.ours()


def test_the_input_lies_behind_as_long_as_it_is_linked(page, client, settings) -> None:
    """What the node has shown of its image when it ran is not its image any more, once the link is gone."""
    upload(client, "linked.png", 48)
    painter = loaded(page, client, settings, "classic")
    page.evaluate(LOAD, "linked.png")
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(f"window.app.nodeOutputs[{NODE}.id]?.fovea_background", timeout=120_000)
    offered = page.locator(".fovea-panel select option[value=input]")
    offered.first.wait_for(state="attached")
    page.evaluate(f"""() => {NODE}.disconnectInput({NODE}.inputs.findIndex(input => input.name === 'image'))""")
    page.locator("#graph-canvas").click(position={"x": 60, "y": 700})  # the editor looks for changes then
    offered.first.wait_for(state="detached")
    assert not page.ours() and painter.text() == ""


def test_loras_are_listed_anew(page, client, settings, loras) -> None:
    """A list that could not be had is asked for again, and refreshing the editor brings new files."""
    save_file({"x.lora_up.weight": torch.ones(2, 2)}, loras / "first.safetensors")
    painter = loaded(page, client, settings, "classic")
    painter.button("Add a region")
    painter.tool("rectangle")
    page.route("**/object_info/FoveaRegion", lambda route: route.fulfill(status=500, body="{}"))
    more, lists = painter.row(1).get_by_role("button", name="Settings"), painter.row(1).get_by_label("LoRA", exact=True)
    more.click()
    page.wait_for_timeout(500)
    assert not lists.last.is_visible()
    page.unroute("**/object_info/FoveaRegion")
    more.click()
    more.click()
    lists.last.wait_for()
    assert "first.safetensors" in lists.last.locator("option").all_inner_texts()
    save_file({"x.lora_up.weight": torch.ones(2, 2)}, loras / "second.safetensors")
    page.evaluate("() => window.app.refreshComboInNodes()")
    page.wait_for_function("!!document.querySelector('.fovea-loras option[value=\"second.safetensors\"]')")
