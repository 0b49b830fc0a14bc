"""Pictures of what `tools.studies.ediffi` found: `python -m tools.studies.ediffi_plots` writes
docs/images/ediffi_*.png."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..comfy.pack import load_packages
from . import ediffi
from .encoder_schedule import plots as encoder_schedule
from .experts import plots as experts
from .experts import unlike
from .plotting import IMAGES
from .style import plots as style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ediffi.FOLDER)
    parser.add_argument("--images", type=Path, default=IMAGES)
    args = parser.parse_args()
    report = {name: part["found"] for name, part in json.loads((args.out / "report.json").read_text()).items()}
    load_packages()
    if "losses" in report:
        experts.losses(report["losses"], args.images / "ediffi_losses.png")
    if "unlike" in report:
        unlike.sheet(ediffi.folder("unlike", args.out), args.images / "ediffi_unlike.png")
    if "attended" in report:
        encoder_schedule.attended(report["attended"], args.images / "ediffi_attended.png")
    if "prompt_swap" in report:
        encoder_schedule.swap(report["prompt_swap"], ediffi.folder("swap", args.out), args.images / "ediffi_swap.png")
    if "styles" in report:
        style.transfers(ediffi.folder("styles", args.out), args.images / "ediffi_styles.png")


if __name__ == "__main__":
    main()
