"""The region painter as people use it, in both renderers: painted with a real pointer, kept, undone, copied, queued."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from painter_page import (
    NODE,
    ROOT,
    SIDE,
    Painter,
    appears,
    loaded,
    opened,
    paint_two,
    png_url,
    press_with_control,
    search_for,
)  # fmt: skip
from PIL import Image

SHOTS = ROOT / "output" / "browser"
pytestmark = [pytest.mark.browser, pytest.mark.server]
both_renderers = pytest.mark.parametrize("renderer", ["classic", "vue"])


@both_renderers
def test_found_by_search_painted_kept_and_undone(page, client, settings, renderer: str) -> None:
    opened(page, client, settings, renderer)
    page.evaluate("window.app.graph.clear()")
    for _ in range(3):
        search_for(page, "paint with words", (500, 200))
        found = page.get_by_text("Region Painter", exact=True).first
        found.wait_for()
        page.wait_for_timeout(2000)  # the list comes anew with every letter: a click between two lists hits neither
        found.click()
        if appears(page, f"!!{NODE}", 10):
            break
    page.locator(".fovea-stage").first.wait_for()
    painter = Painter(page)
    page.wait_for_timeout(1000)  # the new node finds its place
    page.screenshot(path=SHOTS / f"painter_new_{renderer}.png")
    place = page.evaluate(f"[...{NODE}.pos]")
    painter.drag((0.2, 0.3), (0.4, 0.5))
    first = painter.map()
    assert (first == 1).sum() > 1000 and first[int(0.4 * 512), int(0.3 * 512)] == 1, "where the pointer was"
    painter.prompt(1).fill("a red star")
    painter.button("Add a region")
    painter.drag((0.7, 0.3), (0.8, 0.6))
    second = painter.map()
    assert (second == 2).sum() > 1000 and page.evaluate(f"[...{NODE}.pos]") == place, "the node stays where it is"
    page.locator(".fovea-stage").first.focus()
    press_with_control(page, "z")
    painter.settled(first)
    press_with_control(page, "y")
    painter.settled(second)
    painter.drag((0.7, 0.3), (0.8, 0.6), button="right")
    assert (painter.map() == 2).sum() < (second == 2).sum() / 2, "the right button rubs out"
    press_with_control(page, "z")
    text = painter.text()
    assert len(text) < 20_000 and [row["prompt"] for row in painter.value()["regions"]] == ["a red star", ""]
    page.wait_for_timeout(2500)  # the editor keeps drafts with a delay
    page.reload()
    page.locator(".fovea-stage").first.wait_for()
    page.wait_for_timeout(500)
    assert painter.text() == text and painter.prompt(1).input_value() == "a red star"
    assert not page.ours()


@both_renderers
def test_copied_and_in_a_subgraph(page, client, settings, renderer: str) -> None:
    """A copy is a drawing of its own; in a subgraph it is the same."""
    painter = loaded(page, client, settings, renderer)
    paint_two(painter)
    text = painter.text()
    copy = "window.app.graph.nodes.filter(node => node.type === 'FoveaRegionPainter')[1]"
    page.evaluate(f"() => {{ const c = window.app.canvas; c.selectItems([{NODE}]); c.copyToClipboard(); "
                  "c.pasteFromClipboard(); }")  # fmt: skip
    page.wait_for_function(f"{copy}?.widgets?.some(widget => widget.name === 'painting' && widget.value)")
    assert painter.text(copy) == text
    painter.tool("bucket")
    page.mouse.click(*painter.at(0.5, 0.05))
    assert painter.text() != text or painter.text(copy) != text
    assert painter.text() != painter.text(copy)
    page.evaluate(f"window.app.graph.remove({copy})")
    text = painter.text()
    page.evaluate(f"() => {{ window.app.graph.convertToSubgraph(new Set([{NODE}])); }}")
    inside = "[...window.app.graph.subgraphs.values()][0].nodes.find(node => node.type === 'FoveaRegionPainter')"
    page.wait_for_function(f"{inside}?.widgets?.some(widget => widget.name === 'painting')")
    assert painter.text(inside) == text
    queued = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    (inputs,) = [node["inputs"] for node in queued.values() if node["class_type"] == "FoveaRegionPainter"]
    assert inputs["painting"] == text


@both_renderers
def test_what_is_painted_appears(page, client, settings, renderer: str, demo_model: Path) -> None:
    """Queued on ShapesWorld, the reader finds the objects inside of what was painted, in most of four seeds."""
    from fovea.models.shapesworld import loader as demo
    from tools.shapesworld import judge
    from tools.shapesworld.world import COLOUR_NAMES, SHAPES

    painter = loaded(page, client, settings, renderer, "light" if renderer == "vue" else "dark")
    paint_two(painter)
    page.screenshot(path=SHOTS / f"painter_{renderer}.png")
    for kind, name, number in (("KSampler", "steps", 20), ("EmptyLatentImage", "batch_size", 4)):
        page.evaluate(f"window.app.graph.nodes.find(node => node.type === '{kind}').widgets"
                      f".find(widget => widget.name === '{name}').value = {number}")  # fmt: skip
    places = painter.map()
    graph = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    run = client.run(graph)
    assert run.status == "success", run.explain()
    pictures = [np.array(Image.open(io.BytesIO(client.image(image))).convert("RGB"))
                for node_id in run.outputs for image in run.images(node_id)]  # fmt: skip
    assert len(pictures) == 4
    reader, hits = demo.load_segmenter(), 0
    for picture in pictures:
        small = np.array(Image.fromarray(picture).resize((128, 128), Image.Resampling.BOX))
        classes = reader(torch.from_numpy(small).movedim(-1, 0)[None].float() / 255)[0].argmax(1)[0].numpy()
        for row, color, shape in ((1, "red", "star"), (2, "blue", "circle")):
            label = COLOUR_NAMES.index(color) * len(SHAPES) + SHAPES.index(shape)
            found = classes == label
            inside = places[::2, ::2] == row
            hits += found.sum() >= judge.MIN_PIXELS and (found & inside).sum() > 0.6 * found.sum()
    assert hits >= 4, f"{hits} of 8 objects are where they were painted"


@both_renderers
def test_size_and_tab(page, client, settings, renderer: str) -> None:
    """Another size stretches what is painted, shapes stay sharp, and back gives the same; another tab and back loses
    nothing."""
    painter = loaded(page, client, settings, renderer)
    paint_two(painter)
    painter.tool("brush")
    painter.drag((0.3, 0.85), (0.7, 0.9))  # beside the second region's rectangle
    before, masks = painter.map(), painter.masks()
    change = (f"value => {{ const w = {NODE}.widgets.find(w => w.name === 'width'); "
              "w.value = value; w.callback?.(value); }")  # fmt: skip
    page.evaluate(change, 512)
    wide = painter.map()
    assert wide.shape == (SIDE, 512)
    assert np.array_equal(painter.masks()[2][:, ::2], masks[2]) and masks[2][int(0.9 * SIDE), SIDE // 2] == 1
    assert (wide[:, ::2] == before).mean() > 0.99, "the ellipse has finer steps"
    page.evaluate(change, 16)
    assert painter.map().shape == (SIDE, 16)
    page.evaluate(change, SIDE)
    assert np.array_equal(painter.map(), before), "small sizes in between lose nothing"
    text = painter.text()
    page.get_by_role("button", name="Create a new blank workflow").first.click()
    page.wait_for_function(f"!{NODE}")
    page.locator(".workflow-tab").nth(1).click()
    page.wait_for_function(f"{NODE}?.widgets?.find(w => w.name === 'painting')?.value")
    assert painter.text() == text


def test_nothing_typed_becomes_markup(page, client, settings) -> None:
    painter = loaded(page, client, settings, "classic")
    prompt = "<img src=x onerror='window.hurt=1'>"
    text = json.dumps({"version": 2, "width": SIDE, "height": SIDE, "prompt": f"so {prompt}",
                       "regions": [{"id": 1, "color": "\"><b>", "prompt": prompt, "strength": 1e9}]})  # fmt: skip
    page.evaluate(f"text => {{ {NODE}.widgets.find(w => w.name === 'painting').value = text; }}", text)
    page.wait_for_function("document.querySelector('.fovea-prompt')?.value.includes('onerror')")
    assert painter.prompt(1).input_value() == prompt
    assert page.evaluate("window.hurt === undefined && !document.querySelector('.fovea-panel img[src=x]')")
    for broken in ("{", "[]", '{"regions": [{"mask": "data:image/png;base64,AAAA"}], "width": 99999}'):
        page.evaluate(f"text => {{ {NODE}.widgets.find(w => w.name === 'painting').value = text; }}", broken)
        page.wait_for_function("document.querySelector('.fovea-said')?.textContent.includes('cannot be read')")


def test_shapes_against_slow_ones(page, client, settings) -> None:
    """Fill, polygon, ellipse and stroke pixel by pixel, by the page's own modules."""
    opened(page, client, settings, "classic")
    slow = Path(__file__).with_name("slow_shapes.js").read_text(encoding="utf-8")
    wrong = page.evaluate(slow[slow.index("async") :])
    assert wrong == []


def test_the_brush_keeps_up(page, client, settings) -> None:
    """1024 x 1024 with twelve regions: every pointer event draws; prints how long it takes (a frame has 16 ms)."""
    painter = loaded(page, client, settings, "classic")
    index = np.add.outer(np.arange(1024) // 256, np.arange(1024) // 86) % 12
    regions = [{"id": i + 1, "color": f"#{i * 20:02x}80ff", "prompt": f"thing {i}", "strength": 1,
                "mask": png_url(((index == i) * 255).astype(np.uint8))} for i in range(12)]  # fmt: skip
    text = json.dumps({"version": 2, "width": 1024, "height": 1024, "prompt": "", "regions": regions})
    page.evaluate(
        f"""text => {{
        for (const name of ['width', 'height']) {NODE}.widgets.find(w => w.name === name).value = 1024;
        {NODE}.widgets.find(w => w.name === 'painting').value = text; }}""",
        text,
    )
    page.wait_for_function("document.querySelector('.fovea-paper canvas').width === 1024")
    painter.page.evaluate("""() => { window.spent = [];
        const stage = document.querySelector('.fovea-stage');
        stage.addEventListener('pointermove', () => { window.began = performance.now(); }, true);
        stage.addEventListener('pointermove', () => window.spent.push(performance.now() - window.began)); }""")
    painter.tool("brush")
    painter.drag((0.1, 0.1), (0.9, 0.2), (0.2, 0.5), (0.9, 0.9))
    spent = sorted(page.evaluate("window.spent"))
    median, worst = spent[len(spent) // 2], spent[-1]
    print(f"pointer to canvas: median {median:.2f} ms, worst {worst:.2f} ms of {len(spent)}")
    assert len(spent) > 20
