"""A warning is to be read on its node in the editor, and goes when the node runs again without one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from painter_page import appears, opened

from tools.sweep.jobs import node

pytestmark = [pytest.mark.browser, pytest.mark.server]
ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "output" / "browser"
_seeds = itertools.count(80_000)  # nothing comes from the server's cache
NAMES = {"load": "1", "boxes": "2", "regions": "3", "dense": "4", "latent": "5", "sample": "6", "show": "7"}
TEXT = """(window.app.graph.getNodeById({})?.widgets?.find(one => one.name === 'fovea_notice')
    ?.element.textContent ?? '')"""
DENSE, SAMPLER = (TEXT.format(NAMES[name]) for name in ("dense", "sample"))
# Whether nothing of an element's text is cut off.
WHOLE = """element => {
    for (let at = element; at && at !== document.body; at = at.parentElement)
        if (getComputedStyle(at).overflowY !== 'visible' && at.scrollHeight > at.clientHeight + 2) return false;
    return true;
}"""
HEIGHT = f"window.app.graph.getNodeById({NAMES['dense']}).size[1]"


def graph(boxes: str) -> dict[str, Any]:
    """The demo's regions in a small picture that a run begins late, with guidance that begins early: ids as numbers."""
    found = json.loads((ROOT / "demo" / "regions.json").read_text(encoding="utf-8"))
    made = {key: found[key] for key in ("load", "boxes", "regions", "dense")}
    made["boxes"]["inputs"]["value"] = boxes
    made["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    made["sample"] = node(
        "KSampler", model=["dense", 0], positive=["dense", 1], negative=["dense", 2], latent_image=["latent", 0],
        seed=next(_seeds), sampler_name="euler", scheduler="normal", denoise=1.0, steps=2, cfg=2.0,
    )  # fmt: skip
    made["show"] = node("PreviewAny", source=["sample", 0])
    text = json.dumps(made)
    for name, number in NAMES.items():
        text = text.replace(f'["{name}", ', f'["{number}", ')
    return {NAMES[name]: each for name, each in json.loads(text).items()}


def run(page, client) -> None:
    before = set(client.json("/history"))
    page.get_by_role("button", name="Run", exact=True).first.click()
    for _ in range(600):
        new = [entry for key, entry in client.json("/history").items() if key not in before]
        if new:
            assert new[0]["status"]["status_str"] == "success"
            return
        page.wait_for_timeout(200)
    raise AssertionError("the run did not end")


TRACKER = "window.app.extensionManager.workflow.activeWorkflow.changeTracker"
# As a workflow that was made in the editor, which has an id.
AGAIN = """async () => {
    window.app.graph.arrange(60);
    await window.app.loadGraphData({ ...window.app.graph.serialize(), id: crypto.randomUUID() }); }"""


def placed(page, made: dict[str, Any]) -> None:
    page.evaluate("graph => window.app.loadApiJson(graph, 'notices')", made)
    page.wait_for_function("window.app.graph.nodes.length === 7")
    page.wait_for_function("window.app.extensionManager.workflow.activeWorkflow.path.includes('notices')")
    page.evaluate(AGAIN)
    page.wait_for_function(f"{TRACKER}.activeState.id === window.app.graph.id")
    page.keyboard.press(".")  # fit to view


def change(page, name: str, widget: str, value: Any) -> None:
    page.evaluate(
        """([id, name, value]) => {
            window.app.graph.getNodeById(id).widgets.find(widget => widget.name === name).value = value;
        }""",
        [int(NAMES[name]), widget, value],
    )


both_renderers = pytest.mark.parametrize("renderer", ["classic", "vue"])


@both_renderers
def test_a_warning_comes_and_goes(renderer: str, page, client, settings, demo_model: Path) -> None:
    opened(page, client, settings, renderer)
    placed(page, graph("[]"))
    before = page.evaluate(HEIGHT)
    run(page, client)
    assert appears(page, f"({DENSE}).includes('There is no region')", 10)
    page.get_by_text("There is no region").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=SHOTS / f"notices_{renderer}.png")
    assert not page.evaluate(SAMPLER)
    box = '[{"bbox": [60, 60, 480, 480], "desc": "a plain red star"}]'
    for name, widget, value in (("boxes", "value", box), ("sample", "denoise", 0.3)):
        change(page, name, widget, value)
    run(page, client)
    assert appears(page, f"({SAMPLER}).includes('Regions do nothing in this run')", 10)
    # The editor asks the server whose job it was before it takes a warning off; the sampler's names its workflow.
    assert appears(page, f"({DENSE}) === ''", 10), "it has run again, and nothing was to be said"
    # Nodes 2.0 lays nodes out anew some frames later.
    page.wait_for_function(f"before => Math.abs({HEIGHT} - before) <= 2", arg=before, timeout=5000)
    text = page.get_by_text("they end at end_percent 0.5").first.element_handle()
    page.wait_for_function(WHOLE, arg=text, timeout=5000)
    page.wait_for_timeout(1000)
    page.screenshot(path=SHOTS / f"notices_gone_{renderer}.png")
    assert not page.ours()


STEPS = f"(() => {{ {TRACKER}.captureCanvasState(); return {TRACKER}.undoQueue.length; }})()"
MOVED = f"""() => {{ const node = window.app.graph.getNodeById({NAMES["show"]});
    node.pos = [node.pos[0] + 50, node.pos[1]]; {TRACKER}.captureCanvasState(); }}"""


SAVED = f"window.app.graph.serialize().nodes.find(node => node.id === {NAMES['dense']})"
LONG = "There is no region: none is connected, painted or found. " * 5


def tell(page, text: str) -> None:
    """As the server does it for Dense Diffusion."""
    page.evaluate(
        """([node, text]) => window.app.api.dispatchEvent(new CustomEvent('fovea.notice', {
            detail: { workflow: null, job: 'any', node, lines: [text] } }))""",
        [NAMES["dense"], text],
    )


@both_renderers
def test_a_warning_is_no_part_of_the_workflow(renderer: str, page, client, settings, demo_model: Path) -> None:
    """Neither in its steps of undo nor in what is saved; it outlives an undo, which makes every node anew."""
    opened(page, client, settings, renderer)
    placed(page, graph("[]"))
    page.wait_for_timeout(500)
    steps, saved = page.evaluate(STEPS), page.evaluate(SAVED)
    tell(page, LONG)
    page.wait_for_timeout(500)
    high = page.evaluate(HEIGHT)
    assert high > saved["size"][1] + 20 and page.evaluate(SAVED) == saved and page.evaluate(STEPS) == steps
    page.evaluate(MOVED)
    ours = f"window.app.graph.getNodeById({NAMES['dense']})"
    page.evaluate(f"window.before = {ours}")
    page.evaluate(f"{TRACKER}.undo()")
    page.wait_for_function(f"window.before !== {ours}")
    assert appears(page, f"({DENSE}).includes('There is no region')", 10)
    page.wait_for_timeout(500)
    page.evaluate(f"{ours}.setSize([{ours}.size[0], {high} + 100])")  # somebody's own height
    page.wait_for_timeout(500)
    assert page.evaluate(SAVED)["size"][1] == pytest.approx(high + 100, abs=2)
    assert not page.ours()


def test_a_warning_stays_with_its_workflow(page, client, settings, demo_model: Path) -> None:
    """Nodes of another workflow have the same numbers."""
    opened(page, client, settings, "classic")
    placed(page, graph("[]"))
    run(page, client)
    assert appears(page, f"({DENSE}).includes('There is no region')", 10)
    box = '[{"bbox": [60, 60, 480, 480], "desc": "a plain red star"}]'
    placed(page, graph(box))
    assert not page.evaluate(DENSE)
    run(page, client)
    page.wait_for_timeout(1000)
    assert not page.evaluate(DENSE)
    tabs = page.locator(".workflow-tab")
    tabs.nth(2).click()  # 0: the editor's own, 1: the graph as it came
    assert appears(page, f"({DENSE}).includes('There is no region')", 10), "the other one's run has taken it off"
    assert not page.ours()


def test_a_cured_fault_is_taken_back_though_the_node_is_cached(page, client, settings, demo_model: Path) -> None:
    opened(page, client, settings, "classic")
    box = '[{"bbox": [60, 60, 480, 480], "desc": "a plain red star"}]'
    placed(page, graph(box))
    link = "window.app.graph.getNodeById({}).connect(0, window.app.graph.getNodeById({}), 0)"
    for source, said in (("load", True), ("dense", False), ("load", True)):
        page.evaluate(link.format(NAMES[source], NAMES["sample"]))
        run(page, client)
        assert appears(page, f"({DENSE}).includes('does not obey') === {str(said).lower()}", 10), source
    assert not page.ours()


def test_a_warning_in_a_subgraph(page, client, settings, demo_model: Path) -> None:
    """It is told beside the graph that is on screen, and is on its node when the subgraph is opened."""
    opened(page, client, settings, "classic")
    placed(page, graph("[]"))
    dense = f"window.app.graph.getNodeById({NAMES['dense']})"
    page.evaluate(f"() => {{ window.app.graph.convertToSubgraph(new Set([{dense}])); }}")
    run(page, client)
    toast = page.locator(".p-toast-message, [data-testid=toast]")  # of ComfyUI 0.30, of later editors
    toast.get_by_text("There is no region").wait_for()
    page.evaluate("window.app.canvas.setGraph([...window.app.graph.subgraphs.values()][0])")
    inside = "window.app.canvas.graph.nodes.find(node => node.type === 'FoveaDenseDiffusion').widgets"
    assert appears(page, f"{inside}.at(-1).element?.textContent.includes('There is no region')", 10)
    page.keyboard.press(".")
    page.get_by_text("There is no region").last.wait_for()
    page.screenshot(path=SHOTS / "notices_subgraph.png")
    assert not page.ours()


def test_words_of_a_prompt_stay_words(page, client, settings, demo_model: Path) -> None:
    """No Markdown, no HTML: a workflow of somebody else could have pictures loaded from anywhere."""
    opened(page, client, settings, "vue")
    placed(page, graph("[]"))
    text = "<b>x</b> ![](http://127.0.0.1:9/x.png) __a__\nsecond line"
    tell(page, text)
    assert page.evaluate(DENSE) == f"\u26a0 {text}"
    page.get_by_text("second line").wait_for()
    assert page.evaluate("document.querySelectorAll('.lg-node img[src*=\"127.0.0.1:9\"]').length") == 0
