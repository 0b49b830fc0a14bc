"""Makes the template thumbnails, a same-name .jpg each: the results of workflows that run with the demo model side by
side, and the graph in the editor for those that need a download."""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

from .. import browser
from ..comfy import workflow as ui
from ..comfy.api import Client
from ..comfy.host import ROOT
from ..comfy.server import temporary
from ..errors import SetupError

SIZE = 512
FOLDER = ROOT / "workflows"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]


def compose(results: list[list[Image.Image]]) -> Image.Image:
    """One square: each result is a column of its first pictures. Charts and wide sheets are left out."""
    results = [images for images in results if images[0].width <= 1.5 * images[0].height] or results
    columns = len(results)
    rows = max(1, min(columns, *(len(images) for images in results)))
    width, height = SIZE // columns, SIZE // rows
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    for x, images in enumerate(results):
        for y, image in enumerate(images[:rows]):
            tile = ImageOps.pad(image.convert("RGB"), (width - 4, height - 4), Image.Resampling.LANCZOS, "white")
            sheet.paste(tile, (x * width + 2, y * height + 2))
    return sheet


def photograph(client: Client, workflows: dict[Path, ui.Workflow]) -> None:
    """Pictures of graphs in the editor."""
    from playwright.sync_api import sync_playwright

    chromium = browser.find()
    if chromium is None:
        raise SetupError("no Chromium is installed (apt-get install chromium)")
    for name, value in {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False,
                        "Comfy.Workflow.ShowMissingModelsWarning": False}.items():  # fmt: skip
        client.session.post(f"{client.address}/settings/{name}", data=json.dumps(value), timeout=60).raise_for_status()
    with sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = window.new_page(viewport={"width": 1900, "height": 1080})
        page.goto(client.address)
        page.get_by_role("button", name="Templates").wait_for()
        page.wait_for_function("!!window.app?.extensionManager?.workflow?.activeWorkflow?.activeState")
        for path, workflow in tqdm(workflows.items(), unit="graph"):
            page.evaluate("graph => window.app.loadGraphData(graph)", workflow)
            page.keyboard.press("Escape")  # what it says of missing files
            page.evaluate(LOOK)
            page.wait_for_timeout(1200)
            data = page.evaluate("() => document.querySelector('#graph-canvas').toDataURL('image/png')")
            shot = Image.open(io.BytesIO(base64.b64decode(data.split(",", 1)[1]))).convert("RGB")
            wide = ImageOps.fit(shot, (SIZE * 2, SIZE), Image.Resampling.LANCZOS)
            wide.save(path.with_suffix(".jpg"), quality=88)
        window.close()


# The whole graph in the middle of the canvas, without red frames around nodes whose files are not here.
LOOK = """() => {
    for (const node of window.app.graph.nodes) { node.has_errors = false; node.strokeStyles = {}; }
    const all = window.app.graph.nodes.map(node => node.getBounding ? Array.from(node.getBounding()) : []);
    const left = Math.min(...all.map(b => b[0])), top = Math.min(...all.map(b => b[1]));
    const right = Math.max(...all.map(b => b[0] + b[2])), bottom = Math.max(...all.map(b => b[1] + b[3]));
    const view = window.app.canvas.canvas.getBoundingClientRect(), ds = window.app.canvas.ds;
    ds.scale = 0.92 * Math.min(view.width / (right - left), view.width / 2 / (bottom - top));
    ds.offset = [view.width / ds.scale / 2 - (left + right) / 2, view.height / ds.scale / 2 - (top + bottom) / 2];
    window.app.canvas.setDirty(true, true);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of templates, without .json; none: all")
    wanted = parser.parse_args().names
    with temporary("thumbnails") as server:
        client = Client(server.address)
        object_info = client.json("/object_info")
        paths = [path for path in sorted(FOLDER.glob("*.json")) if not wanted or path.stem in wanted]
        every = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        needy = {path: workflow for path, workflow in every.items() if ui.needs_files(workflow)}
        if needy:
            photograph(client, needy)
        for path in tqdm(sorted(set(every) - set(needy)), unit="workflow"):
            run = client.run(ui.to_api(every[path], object_info))
            if run.status != "success":
                raise SetupError(f"{path.name}: {run.explain()}")
            nodes = sorted((node_id for node_id in run.outputs if run.images(node_id)), key=int)
            pictures = [
                [Image.open(io.BytesIO(client.image(image))).convert("RGB") for image in run.images(node_id)]
                for node_id in nodes
            ]
            compose(pictures).save(path.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
