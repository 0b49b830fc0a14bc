"""`make demo`: queues every graph of `demo/` on the real server, keeps the images, a contact sheet and a report."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from .comfy import api, graph
from .comfy.host import ROOT
from .comfy.scratch import alone_in
from .comfy.server import temporary
from .errors import SetupError
from .release import sheet

GRAPHS = ROOT / "demo"
OUTPUT = ROOT / "output" / "demo"
# What to look for, in the order of the sheet: what is plain to see comes first.
LOOK_FOR = {
    "painter": "Each thing stands where its region was painted.",
    "regions": "The same seeds: with regions the star stands top left, the heart top right, the circle below.",
    "flow": "A flow transformer: left to chance, told places in words, told places by regions.",
    "optimize": "The same noise before and after: what the prompt does not ask for goes, what it asks for comes.",
    "style": "All pictures take the shading of the one picture that they were shown.",
    "base": "What the demo model draws by itself.",
    "experts": "The second model finishes what the first began: the same places, another finish.",
    "encoders": "CLIP and T5 are told different things, and the pictures show who is listened to.",
    "sag_off_on": "Small differences: on this model guidance neither helps nor harms beyond chance.",
    "sag_off_on_unconditional": "Without a prompt, too: small differences.",
}


def git(*arguments: str) -> str | None:
    """What git says about the pack's own checkout, None outside of one."""
    try:
        result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def surroundings(client: api.Client) -> dict[str, Any]:
    """What the numbers of a report depend on: our commit, ComfyUI, the device."""
    stats = client.json("/system_stats")
    return {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "comfyui": stats["system"].get("comfyui_version"),
        "torch": stats["system"].get("pytorch_version"),
        "python": stats["system"].get("python_version", "").split(" ")[0],
        "devices": [device.get("name") for device in stats.get("devices", [])],
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def fetch_images(client: api.Client, run: api.Run, name: str, nodes: graph.Graph) -> list[dict[str, Any]]:
    """Write the images of every SaveImage node and tell their names, hashes and settings."""
    results = []
    for node_id in graph.save_nodes(nodes):
        title, images = graph.title(nodes, node_id), []
        for index, reference in enumerate(run.images(node_id)):
            data = client.image(reference)
            target = OUTPUT / f"{name}_{slug(title)}_{index}.png"
            target.write_bytes(data)
            images.append({"file": target.name, "sha256": hashlib.sha256(data).hexdigest()})
        results.append({"title": title, "settings": graph.settings(nodes, node_id), "images": images})
    return results


def blank_row(name: str) -> dict[str, Any]:
    """The report's row for a graph that has not run."""
    return {"graph": name, "status": "refused", "seconds": 0.0, "error": None, "node_errors": {}, "images": 0,
            "results": []}  # fmt: skip


def run_graph(client: api.Client, name: str, nodes: graph.Graph) -> dict[str, Any]:
    """Run one graph behind a progress bar. A graph that fails is told in the row, not raised."""
    row = blank_row(name)
    done: dict[str, tuple[int, int]] = {}
    total = sum(int(graph.widgets(nodes, node_id)["steps"]) for node_id in graph.samplers(nodes))
    with tqdm(total=total or None, desc=f"{name:<28}", unit="step") as bar:

        def progress(node_id: str, value: int, steps: int) -> None:
            done[node_id] = (value, steps)
            bar.total = max(total, sum(steps for _, steps in done.values()))
            bar.n = sum(value for value, _ in done.values())
            bar.refresh()

        try:
            run = client.run(nodes, progress)
        except api.Refused as refusal:
            row.update(error=str(refusal), node_errors=refusal.node_errors)
            return row
        row.update(status=run.status, seconds=round(run.seconds, 3))
        if run.status != "success":
            row.update(error=run.explain(), node_errors=run.node_errors)
        if run.error is not None:
            row["node_errors"] = {str(run.error.get("node_id")): run.error.get("exception_message")}
        row["results"] = fetch_images(client, run, name, nodes)
        row["images"] = sum(len(result["images"]) for result in row["results"])
    if row["status"] == "success" and not row["images"]:
        row.update(status="error", error="the graph saved no image")
    return row


def settings_line(settings: dict[str, Any]) -> str:
    """Small print below a result: seed, sampler, and what each patch on the model was set to."""
    shown = ("seed", "steps", "cfg", "sampler_name", "scheduler")
    parts = [f"{key} {settings[key]}" for key in shown if key in settings]
    for patch in settings.get("patches", []):
        values = ", ".join(f"{key} {value}" for key, value in patch.items() if key != "node")
        parts.append(f"{patch['node']} ({values})")
    return ", ".join(parts)


def band(row: dict[str, Any]) -> sheet.Band:
    # Pairs stand side by side in blocks of two by two; a single result takes the whole line.
    per_line = 4 if len(row["results"]) == 1 else 2
    columns = [
        sheet.Column(
            result["title"],
            settings_line(result["settings"]),
            [OUTPUT / image["file"] for image in result["images"]],
            per_line,
        )
        for result in row["results"]
    ]
    prompts = {result["settings"].get("prompt") or "(empty prompt)" for result in row["results"] if result["settings"]}
    look = LOOK_FOR.get(row["graph"], "")
    notes = row["error"] or f"{look} Prompt: {' / '.join(sorted(prompts))}   [{row['seconds']:.1f} s]".strip()
    return sheet.Band(f"{row['graph']}: {row['status']}" if row["error"] else row["graph"], notes, columns)


def in_order(names: Iterable[str]) -> list[str]:
    """As LOOK_FOR has them, then the others."""
    places = list(LOOK_FOR)
    return sorted(names, key=lambda name: (places.index(name) if name in places else len(places), name))


def times(start: float, rows: Sequence[dict[str, Any]]) -> str:
    """Where the time went, in lines: starting, then graphs, the longest first."""
    longest_first = sorted(rows, key=lambda row: -row["seconds"])
    parts = [("starting ComfyUI", start), *((row["graph"], row["seconds"]) for row in longest_first)]
    return "\n".join(f"{seconds:7.1f} s  {name}" for name, seconds in parts)


def demo(quick: bool = False) -> int:
    """Returns the exit code: 0 when every graph succeeded. quick: with few steps."""
    graphs = {name: graph.load(path) for name, path in graph.demo_graphs(GRAPHS).items()}
    graphs = {name: graph.quick(graphs[name]) if quick else graphs[name] for name in in_order(graphs)}
    if not graphs:
        raise SetupError(f"{GRAPHS} holds no graph (*.json).")
    with alone_in(OUTPUT):
        return _demo(graphs)


def _demo(graphs: dict[str, graph.Graph]) -> int:
    for old in OUTPUT.glob("*.png"):
        old.unlink()
    print("starting ComfyUI", flush=True)
    began = time.monotonic()
    with temporary("demo", OUTPUT / "server.log") as server:
        start = time.monotonic() - began
        client = api.Client(server.address)
        report = surroundings(client)
        rows = []
        for name, nodes in graphs.items():
            try:
                rows.append(run_graph(client, name, nodes))
            except api.LOST as error:
                rows.append({**blank_row(name), "status": "error", "error": f"{type(error).__name__}: {error}"})
    report["graphs"] = rows
    (OUTPUT / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sheet.draw_sheet(f"Fovea on ComfyUI {report['comfyui']}", [band(row) for row in rows], OUTPUT / "contact_sheet.png")
    failed = [row for row in rows if row["status"] != "success"]
    for row in failed:
        print(f"fovea: {row['graph']}: {row['error']}", file=sys.stderr)
    print(times(start, rows))
    sheet_path = os.path.relpath(OUTPUT / "contact_sheet.png")
    print(f"{len(rows) - len(failed)} of {len(rows)} graphs succeeded; see {sheet_path}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: whether it runs, not what it draws")
    return demo(parser.parse_args().quick)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("fovea: stopped.")
