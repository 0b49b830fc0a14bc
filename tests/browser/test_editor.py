"""A person opens the graph editor in Chromium, picks our template and presses Run, in both of its renderers."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from painter_page import arrived, opened, search_for
from pictures import is_blank

from tools.comfy import workflow as ui

ROOT = Path(__file__).resolve().parent.parent.parent
SHOTS = ROOT / "output" / "browser"
EVERY = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
WORKFLOWS = [path for path in EVERY if not ui.needs_files(json.loads(path.read_text(encoding="utf-8")))]
# What each result node shows, as the editor itself holds it.
RESULTS = """() => window.app.graph.nodes
    .filter(node => node.constructor.nodeData?.output_node && node.type !== 'PreviewAny')
    .map(node => (window.app.nodeOutputs[node.id]?.images ?? []).length)"""

# Not the graph that the editor starts with.
LOADED = "() => window.app?.graph?.nodes.some(node => node.type.startsWith('Fovea'))"

SELECT = """name => {
    window.app.graph.clear();
    const node = window.LiteGraph.createNode(name);
    window.app.graph.add(node);
    window.app.canvas.selectNode(node);
}"""
PICTURES = """() => [...document.querySelectorAll(".node-help-content img")].every(one => one.naturalWidth > 0)"""

pytestmark = [pytest.mark.browser, pytest.mark.server]


def open_from_dialog(page, client, path: Path) -> None:
    """As people find it. The dialog draws the cards of all templates there are, which takes longer than a page."""
    page.goto(client.address)
    page.get_by_role("button", name="Templates").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("fovea", exact=True).click()
    card = dialog.get_by_role("heading", name=path.stem, exact=True)
    dialog.get_by_text("Node graph", exact=True).first.hover()
    for _ in range(40):  # the editor makes cards as people scroll to them
        if card.is_visible():
            break
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(250)
    card.wait_for()
    page.screenshot(path=SHOTS / "templates.png")
    card.click()
    dialog.wait_for(state="hidden")
    page.wait_for_function(LOADED)


def open_as_file(page, client, path: Path) -> None:
    """As people open what they were sent."""
    arrived(page, client)
    page.locator("#comfy-file-input").set_input_files(path)  # what the menu's Open asks
    page.wait_for_function(LOADED)


def inputs(graph: dict) -> dict:
    """An API graph without titles; a widget that is linked has no value of its own."""
    return {key: (node["class_type"], node["inputs"]) for key, node in graph.items()}


# What nodes cover on the page, in units of the graph: [name, left, top, right, bottom], title and folds included.
COVERED = """() => window.app.graph.nodes.map(node => {
    const [x, y, width, height] = node.getBounding(), shown = document.querySelector(`[data-node-id="${node.id}"]`);
    const high = shown ? shown.getBoundingClientRect().height / window.app.canvas.ds.scale : height;
    return [`${node.type} ${node.id}`, x, y, x + width, y + Math.max(height, high)];
})"""


def lie_over_each_other(boxes: list[list]) -> list[tuple[str, str]]:
    return [(one[0], other[0]) for one, other in combinations(boxes, 2)
            if one[1] < other[3] and other[1] < one[3] and one[2] < other[4] and other[2] < one[4]]  # fmt: skip


def check_layout(page, name: str) -> None:
    boxes = page.evaluate(COVERED)
    assert len(boxes) > 3 and lie_over_each_other([*boxes, ["a copy", *boxes[0][1:]]]), "the check bites"
    assert not lie_over_each_other(boxes), name


@pytest.mark.parametrize("renderer", ["classic", "vue"])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_template_runs_by_pressing_run(
    path: Path, renderer: str, page, client, settings, object_info: dict, demo_model: Path
) -> None:
    settings(Comfy__VueNodes__Enabled=renderer == "vue")
    page.set_viewport_size({"width": 1600, "height": 1000})
    before = set(client.json("/history"))
    (open_from_dialog if path == WORKFLOWS[0] else open_as_file)(page, client, path)
    assert page.evaluate("window.app.canvas.ds.scale") >= 0.572, "smaller, the classic renderer draws no text"
    page.wait_for_timeout(1000)  # nodes find their heights
    check_layout(page, "before it runs")
    shipped = json.loads(path.read_text(encoding="utf-8"))
    assert page.evaluate("window.app.graph.nodes.length") == len(shipped["nodes"])
    assert not page.evaluate("window.app.graph.nodes.filter(node => node.has_errors).map(node => node.type)")
    queued = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert inputs(queued) == inputs(ui.to_api(shipped, object_info)), "the graph that tests queue headless is this one"
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(f"(({RESULTS})()).every(count => count > 0)", timeout=300_000)
    page.wait_for_timeout(1500)  # let the pictures be drawn before the screenshot
    page.screenshot(path=SHOTS / f"{path.stem}_{renderer}.png")
    assert page.evaluate(RESULTS)
    check_layout(page, "with results")
    new = [entry for prompt_id, entry in client.json("/history").items() if prompt_id not in before]
    assert new and all(entry["status"]["status_str"] == "success" for entry in new)
    shown = [image for entry in new for result in entry["outputs"].values() for image in result.get("images", [])]
    assert shown and not any(is_blank(client.image(image)) for image in shown)
    assert not page.ours()
    if renderer == "vue":
        assert page.locator("img[src*='/view?']").count() >= 1, "Nodes 2.0 shows results as pictures"


def test_a_node_is_found_by_its_short_name(page, client, settings) -> None:
    """Double-click on the canvas, type SAG: the node is offered, and the help it brings is served."""
    opened(page, client, settings, "classic")
    search_for(page, "SAG", (900, 900))
    page.get_by_text("Self-Attention Guidance (Fovea)").first.wait_for()
    page.screenshot(path=SHOTS / "search.png")


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_blueprint_has_its_widgets(path: Path, page, client, settings) -> None:
    """The editor opens the node with the graph inside, shows the chosen widgets, and would queue that graph."""
    opened(page, client, settings, "classic")
    shipped = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate("graph => window.app.loadGraphData(graph)", shipped)
    (node,), (inside,) = shipped["nodes"], shipped["definitions"]["subgraphs"]
    page.wait_for_function(f"window.app.graph.nodes[0]?.title === {json.dumps(path.stem)}")
    shown = page.evaluate("window.app.graph.nodes[0].widgets.map(widget => widget.name)")
    texts = [each["name"] for each in node["inputs"] if each["type"] == "STRING"]  # to be typed where nothing is linked
    assert sorted(shown) == sorted([*texts, *(name for _, name in node["properties"]["proxyWidgets"])])
    queued = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert sorted(each["class_type"] for each in queued.values()) == sorted(each["type"] for each in inside["nodes"])
    assert all(value is not None for each in queued.values() for value in each["inputs"].values())
    assert not [line for line in page.complaints if "widget" in line.lower()] and not page.ours()


def test_blueprints_are_offered_by_the_search(page, client, settings) -> None:
    opened(page, client, settings, "classic")
    for path in BLUEPRINTS:
        search_for(page, path.stem.removesuffix(" (Fovea)"), (900, 900))
        page.get_by_text(path.stem).first.wait_for()


OWN = {"FoveaOptimizeLatent": ("preset", {"DOODL": {"iterations", "candidates", "learning_rate", "view_resize"},
                                          "default": {"iterations", "candidates", "salient_weight"}}),
       "FoveaDenseDiffusion": ("method", {"densediffusion": {"area_strength", "key_stride"}, "hard": set(),
                                          "fovea": {"rest_strength"}})}  # fmt: skip


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_an_option_brings_its_own_inputs(renderer: str, page, client, settings) -> None:
    """The node shows and queues those of the chosen option, and they are kept with the workflow."""
    opened(page, client, settings, renderer)
    for kind, (combo, options) in OWN.items():
        page.evaluate(SELECT, kind)
        for option, names in options.items():
            page.evaluate(
                """([combo, option]) => { const [node] = window.app.graph.nodes;
                const widget = node.widgets.find(widget => widget.name === combo);
                widget.value = option; widget.callback?.(option); }""",
                [combo, option],
            )
            saved = page.evaluate("window.app.graph.serialize()")
            page.evaluate("graph => window.app.loadGraphData(graph)", saved)
            page.wait_for_function("window.app.graph.nodes.length === 1")
            queued = page.evaluate("async () => (await window.app.graphToPrompt()).output")
            (node,) = queued.values()
            own = {name.partition(".")[2] for name in node["inputs"] if name.startswith(f"{combo}.")}
            assert (node["inputs"][combo], own) == (option, names)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_is_shown_in_the_editors_language(language: str, page, client, settings) -> None:
    """Every page that the editor shows is the right one, with its pictures, and fits the panel's width."""
    opened(page, client, settings, "classic", language=language)
    names = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    content = page.locator(".node-help-content")
    for node, texts in names.items():
        page.evaluate(SELECT, node)
        if not content.is_visible():
            page.get_by_test_id("info-button").click()
        heading = content.get_by_role("heading", level=1)
        heading.get_by_text(texts["display_name"], exact=True).wait_for()
        page.wait_for_function(PICTURES)
        if node == "FoveaRegionPainter":
            page.screenshot(path=SHOTS / f"help_{language}.png")
        assert content.evaluate("box => box.scrollWidth <= box.clientWidth"), node
        assert "**" not in content.inner_text(), "marks that the editor does not take for bold"
    asked_first = f"/{language}.md"  # a page that is in English only is asked for in a folder of its own before
    assert not [text for text in page.ours() if not text.endswith(asked_first)]
