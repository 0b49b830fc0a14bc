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
TEXT = "window.app.graph.getNodeById({}).widgets.find(one => one.name === '$$node-text-preview')?.value ?? ''"
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


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_a_warning_comes_and_goes(renderer: str, page, client, settings, demo_model: Path) -> None:
    opened(page, client, settings, renderer)
    page.evaluate("graph => window.app.loadApiJson(graph, 'notices')", graph("[]"))
    page.wait_for_function("window.app.graph.nodes.length === 7")
    page.evaluate("window.app.graph.arrange(60)")
    before = page.evaluate(HEIGHT)
    run(page, client)
    assert appears(page, f"({DENSE}).includes('There is no region')", 10)
    page.keyboard.press(".")  # fit to view
    page.get_by_text("There is no region").first.wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=SHOTS / f"notices_{renderer}.png")
    assert not page.evaluate(SAMPLER)
    box = '[{"bbox": [60, 60, 480, 480], "desc": "a plain red star"}]'
    for name, widget, value in (("boxes", "value", box), ("sample", "denoise", 0.3)):
        page.evaluate(
            """([id, name, value]) => {
                window.app.graph.getNodeById(id).widgets.find(widget => widget.name === name).value = value;
            }""",
            [int(NAMES[name]), widget, value],
        )
    run(page, client)
    assert appears(page, f"({SAMPLER}).includes('Regions do nothing in this run')", 10)
    assert not page.evaluate(DENSE), "it has run again, and nothing was to be said"
    if renderer == "classic":
        assert page.evaluate(HEIGHT) == pytest.approx(before, abs=2)
    assert page.get_by_text("they end at end_percent 0.5").first.evaluate(WHOLE), "the text is longer than its room"
    page.wait_for_timeout(1000)
    page.screenshot(path=SHOTS / f"notices_gone_{renderer}.png")
    assert not page.ours()
