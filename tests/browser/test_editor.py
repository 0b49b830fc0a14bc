"""A person opens the graph editor in Chromium, picks our template and presses Run, in both of its renderers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).resolve().parent.parent.parent
SHOTS = ROOT / "output" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
# What each result node shows, as the editor itself holds it.
RESULTS = """() => window.app.graph.nodes
    .filter(node => ['PreviewImage', 'SaveImage'].includes(node.type))
    .map(node => (window.app.nodeOutputs[node.id]?.images ?? []).length)"""

pytestmark = [pytest.mark.browser, pytest.mark.server,
              pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")]


@pytest.fixture
def page(live) -> Iterator:
    """A fresh browser profile on the live server's address; console errors are collected in page.complaints."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1900, "height": 1080})
            page.set_default_timeout(120_000)
            page.complaints = []
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("console", lambda line: page.complaints.append(line.text) if line.type == "error" else None)
            yield page
        finally:
            browser.close()


def settings(client, **values: object) -> None:
    """The editor's settings live on the server; without the first flag it opens with a tour."""
    wished = {"Comfy.TutorialCompleted": True, **{name.replace("__", "."): value for name, value in values.items()}}
    for name, value in wished.items():
        reply = client.session.post(f"{client.address}/settings/{name}", data=json.dumps(value), timeout=60)
        reply.raise_for_status()


def open_template(page, client, name: str) -> None:
    page.goto(client.address)
    page.get_by_role("button", name="Templates").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("fovea", exact=True).click()
    card = dialog.get_by_text(name, exact=True)
    card.wait_for()
    page.screenshot(path=SHOTS / "templates.png")
    card.click()
    dialog.wait_for(state="hidden")
    page.wait_for_function("window.app.graph.nodes.length > 3")


@pytest.mark.parametrize("renderer", ["classic", "vue"])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_template_runs_by_pressing_run(path: Path, renderer: str, page, client, demo_model: Path) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    settings(client, Comfy__VueNodes__Enabled=renderer == "vue")
    before = set(client.json("/history"))
    open_template(page, client, path.stem)
    shipped = json.loads(path.read_text(encoding="utf-8"))
    assert page.evaluate("window.app.graph.nodes.length") == len(shipped["nodes"])
    assert not page.evaluate("window.app.graph.nodes.filter(node => node.has_errors).map(node => node.type)")
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(f"(({RESULTS})()).every(count => count > 0)", timeout=300_000)
    page.wait_for_timeout(1500)  # let the pictures be drawn before the screenshot
    page.screenshot(path=SHOTS / f"{path.stem}_{renderer}.png")
    assert page.evaluate(RESULTS)
    new = [entry for prompt_id, entry in client.json("/history").items() if prompt_id not in before]
    assert new and all(entry["status"]["status_str"] == "success" for entry in new)
    ours = [text for text in page.complaints if re.search(r"fovea", text, re.IGNORECASE)]
    assert not ours
    if renderer == "vue":
        assert page.locator("img[src*='/view?']").count() >= 1, "Nodes 2.0 shows results as ordinary pictures"


def test_a_node_is_found_by_its_short_name(page, client) -> None:
    """Double-click on the canvas, type SAG: the node is offered, and the help it brings is served."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    settings(client, Comfy__VueNodes__Enabled=False)
    page.goto(client.address)
    page.get_by_role("button", name="Templates").wait_for()
    page.wait_for_function("window.app?.graph && window.app.canvas")
    page.locator("#graph-canvas").dblclick(position={"x": 900, "y": 900})
    page.keyboard.type("SAG", delay=40)
    page.get_by_text("Self-Attention Guidance (Fovea)").first.wait_for()
    page.screenshot(path=SHOTS / "search.png")
