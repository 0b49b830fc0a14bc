"""Measures how high nodes are at least, in both renderers of the editor: `python -m tools.release.node_heights`.

Writes tools/comfy/node_heights.json, which `make check` and the layout of the templates go by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .. import browser
from ..comfy import workflow as ui
from ..comfy.api import Client
from ..comfy.server import temporary
from ..errors import SetupError
from .templates.catalog import GRAPHS, TEMPLATES, drawn

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
READY = "!!window.app?.extensionManager?.workflow?.activeWorkflow?.activeState"
# Node -> its height below the title bar, after the editor has laid the graph out. Nodes 2.0 writes what it draws back.
HEIGHTS = """async () => {
    await new Promise(done => setTimeout(done, 1500));
    return window.app.graph.nodes.map(node => [node.type, node.flags.collapsed ? 0 : node.size[1]]);
}"""


@contextmanager
def editor(
    client: Client, renderer: str, size: tuple[int, int] = (1600, 1000), settings: Mapping[str, Any] | None = None
) -> Iterator[Any]:
    """A page with the graph editor. renderer: classic or vue. settings: further ones of the editor's, by their ids."""
    from playwright.sync_api import sync_playwright

    chromium = browser.find()
    if chromium is None:
        raise SetupError("no Chromium is installed (apt-get install chromium)")
    for name, value in {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": renderer == "vue",
                        "Comfy.Workflow.ShowMissingModelsWarning": False, **(settings or {})}.items():  # fmt: skip
        client.session.post(f"{client.address}/settings/{name}", data=json.dumps(value), timeout=60).raise_for_status()
    with sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = window.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(client.address)
        page.wait_for_function(READY)
        yield page
        window.close()


def flat(workflow: ui.Workflow) -> ui.Workflow:
    """The same with all nodes as low as can be: the editor makes them as high as they must be."""
    nodes = [{**node, "size": [node["size"][0], 10]} for node in workflow["nodes"] if node["type"] not in ui.NOTES]
    return {**workflow, "nodes": nodes}


def measured(client: Client, workflows: list[ui.Workflow]) -> dict[str, int]:
    """Type -> the largest height of such nodes in these graphs, in either renderer."""
    found: dict[str, int] = {}
    for renderer in ("classic", "vue"):
        with editor(client, renderer) as page:
            for workflow in workflows:
                page.evaluate("graph => window.app.loadGraphData(graph)", flat(workflow))
                for kind, height in page.evaluate(HEIGHTS):
                    found[kind] = max(found.get(kind, 0), round(height + 0.5))
    return dict(sorted(found.items()))


def main() -> None:
    with temporary("node-heights") as server:
        client = Client(server.address)
        info = client.json("/object_info")
        heights = measured(client, [*drawn(TEMPLATES, info, 1).values(), *drawn(GRAPHS, info, 2).values()])
    ui.HEIGHTS.write_text(json.dumps(heights, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
