"""`make soak`: hundreds of prompts over all graphs on one server. Does its memory stay, do its pictures stay?

Every graph is queued in turn with few steps and ever new seeds; each with one seed at the start and again at the end.
Writes output/soak/report.json: failures, memory over time, and whether the same seed still gives the same pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import psutil
from PIL import Image
from tqdm import tqdm

from .comfy import graph as graphs
from .comfy import workflow as ui
from .comfy.api import LOST, Client, Refused, Run
from .comfy.host import ROOT
from .comfy.server import temporary
from .studies import record

FOLDER = ROOT / "output" / "soak"
SEEDS = ("seed", "noise_seed")
WARM, LAST, MAX_GROWTH = (50, 100), 50, 0.02


def short(graph: graphs.Graph, seed: int) -> graphs.Graph:
    """A graph with few steps and another seed."""
    made = graphs.quick(graph)
    for node in made.values():
        for name, value in node["inputs"].items():
            if (name in SEEDS and isinstance(value, int)) or (node["class_type"] == "PrimitiveInt" and name == "value"):
                node["inputs"][name] = seed
    return made


def every_graph(client: Client) -> dict[str, graphs.Graph]:
    """The demo's graphs, the templates and docs/graphs."""
    info = client.json("/object_info")
    found = {name: graphs.load(path) for name, path in graphs.demo_graphs(ROOT / "demo").items()}
    for path in sorted([*(ROOT / "workflows").glob("*.json"), *(ROOT / "docs" / "graphs").glob("*.json")]):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        if not ui.needs_files(workflow):
            found[path.stem] = ui.to_api(workflow, info)
    return found


def pixels(client: Client, run: Run) -> str:
    """Hash of all pixels of a run's pictures, which their files' own is not: these hold the prompt too."""
    told = hashlib.sha256()
    for node in sorted(run.outputs):
        for reference in run.images(node):
            told.update(np.asarray(Image.open(io.BytesIO(client.image(reference)))).tobytes())
    return told.hexdigest()


class Soak:
    """One server, what was asked of it and what became of it."""

    def __init__(self, client: Client, process: int) -> None:
        self.client, self.process = client, psutil.Process(process)
        self.asked = 0
        self.memory: list[float] = []
        self.failures: list[str] = []

    def run(self, name: str, graph: graphs.Graph) -> str | None:
        """Queue a graph. -> hash of its pictures' pixels (their files hold the prompt), None if it failed."""
        self.asked += 1
        try:
            run = self.client.run(graph)
            found = pixels(self.client, run) if run.status == "success" else None
            self.client.post("/history", {"clear": True})  # ComfyUI remembers 10,000 prompts, which is no leak
        except (Refused, *LOST) as why:
            self.failures.append(f"{name}: {why}")
            return None
        if self.alive():
            self.memory.append(self.process.memory_info().rss / 2**20)
        if found is None:
            self.failures.append(f"{name}: {run.explain()}")
        return found

    def alive(self) -> bool:
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def whole(self, every: dict[str, graphs.Graph], prompts: int, seconds: float) -> dict[str, Any]:
        """Each graph once, then ever new seeds until so many prompts or seconds, then each as at first."""
        started = time.monotonic()
        first = {name: self.run(name, short(graph, 1)) for name, graph in every.items()}
        each = (time.monotonic() - started) / len(every)
        names, bar = list(every), tqdm(total=prompts, initial=len(every), desc="soak", mininterval=5)
        # The last round takes as long as the first.
        while (
            self.asked < prompts - len(every)
            and time.monotonic() - started < seconds - each * len(every)
            and self.alive()
        ):
            name = names[self.asked % len(names)]
            self.run(name, short(every[name], 2 + self.asked))
            bar.update()
        grown = growth(self.memory)  # before it is freed: what grows may be in caches
        with contextlib.suppress(*LOST):
            self.client.forget()  # nothing may come from a cache
        last = {name: self.run(name, short(graph, 1)) for name, graph in every.items()}
        bar.close()
        changed = [name for name in every if first[name] != last[name]]
        return {
            "prompts": self.asked, "seconds": round(time.monotonic() - started), "graphs": names,
            "failures": self.failures, "changed": changed, "memory_mib": [round(value, 1) for value in self.memory],
            **grown,
        }  # fmt: skip


def growth(memory: list[float]) -> dict[str, Any]:
    """Median of the last prompts against that of early ones; None with too few prompts."""
    if len(memory) < WARM[1] + LAST:
        return {"early_mib": None, "last_mib": None, "growth": None}
    early, last = statistics.median(memory[slice(*WARM)]), statistics.median(memory[-LAST:])
    return {"early_mib": round(early, 1), "last_mib": round(last, 1), "growth": round(last / early - 1, 4)}


def verdict(report: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    found = [f"failed: {failure}" for failure in report["failures"]]
    found += [f"{name}: the same seed gives other pictures at the end" for name in report["changed"]]
    if report["growth"] is None:
        found.append(f"{report['prompts']} prompts are too few to tell whether memory grows: {WARM[1] + LAST} at least")
    elif report["growth"] > MAX_GROWTH:
        found.append(f"memory grew by {100 * report['growth']:.1f} % (limit {100 * MAX_GROWTH:.0f} %)")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with temporary("soak", FOLDER / "server.log") as server:
        client = Client(server.address)
        report = Soak(client, server.process.pid).whole(every_graph(client), args.prompts, args.minutes * 60)
    wrong = verdict(report)
    report = {**record.source(), **report, "wrong": wrong}
    record.write(FOLDER / "report.json", report)
    print("\n".join(wrong) or f"{report['prompts']} prompts in {report['seconds']} s: no failure, the same seeds give "
          f"the same pictures, memory {report['early_mib']} -> {report['last_mib']} MiB")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
