"""Runs measurements one after the other, each in its own process, and then writes the results page."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..comfy.host import ROOT
from ..comfy.server import LIBC, die_with_parent

RESULTS, DOCS = ROOT / "output", ROOT / "docs"
QUICK = RESULTS / "quick"


@dataclass(frozen=True)
class Step:
    """A module to run. {out}, {images} and {docs} stand for the folders of results, of plots and of the page; quick:
    arguments that make of it a run through with a handful of pictures."""

    module: str
    arguments: str = ""
    quick: str = ""

    def command(self, out: Path, docs: Path, quick: bool) -> list[str]:
        words = f"{self.arguments} {self.quick if quick else ''}".split()
        places = {"out": out, "docs": docs, "images": docs / "images"}
        return [sys.executable, "-m", self.module, *(word.format(**places) for word in words)]


def measure(steps: list[Step], quick: bool) -> int:
    """Steps and the page; quick: into output/quick/, and docs/ stays as it is. -> how many failed."""
    page = Step("tools.studies.report", "--results {out} --docs {docs}")
    out, docs = (QUICK, QUICK / "docs") if quick else (RESULTS, DOCS)
    return run([*steps, page], out, docs, quick)


def run(steps: list[Step], out: Path, docs: Path, quick: bool) -> int:
    """All steps to the end, whatever becomes of one. -> how many failed."""
    (docs / "images").mkdir(parents=True, exist_ok=True)
    failed = []
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.module}", flush=True)
        started = time.monotonic()
        done = subprocess.run(step.command(out, docs, quick), cwd=ROOT, check=False,
                              preexec_fn=die_with_parent if LIBC else None)  # fmt: skip
        if done.returncode:
            failed.append(step.module)
        print(f"[{number}/{len(steps)}] {step.module}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)
