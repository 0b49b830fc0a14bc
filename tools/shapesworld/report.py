"""Collects what was measured into docs/results.json and writes docs/results.md from it.

`python -m tools.shapesworld.report`; with --page-only only the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..host import ROOT
from ..pack import load_packages

DATA, PAGE = ROOT / "docs" / "results.json", ROOT / "docs" / "results.md"
HEAD = "# Results\n\nWritten by `python -m tools.shapesworld.report` from `docs/results.json`; do not edit by hand."
TARGETS = {"1": 0.95, "2": 0.80, "3": 0.55}


def training_summary(log: Path) -> list[dict]:
    """Per stage: device, minutes, steps and the first and last logged row."""
    stages: dict[str, list[dict]] = {}
    for line in log.read_text().splitlines():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append(row)
    keep = lambda row: {k: v for k, v in row.items() if k not in ("stage", "device", "minutes")}  # noqa: E731
    return [
        {
            "stage": name,
            "device": rows[-1]["device"],
            "minutes": rows[-1]["minutes"],
            "first": keep(rows[0]),
            "last": keep(rows[-1]),
        }
        for name, rows in stages.items()
    ]


def measure(work: Path) -> dict:
    """Quality of the coder and of the reader on held-out painted pictures, from the shipped files."""
    from fovea.models import demo

    from . import data, train_reader, train_vae

    held_out = data.Dataset(work / "data" / "held_out")
    return {
        "autoencoder_psnr_db": round(train_vae.evaluate(demo.load_vae().first_stage_model.float(), held_out), 2),
        "reader_mean_iou": round(train_reader.evaluate(demo.load_reader(), held_out), 4),
    }


def page(facts: dict) -> str:
    """The page, from the data alone."""
    return (
        "\n\n".join([HEAD, generator_section(facts["generator"]), judges_section(facts), training_section(facts)])
        + "\n"
    )


def percent(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def generator_section(generator: dict) -> str:
    measured, settings = generator["table"], generator["settings"]
    rows = []
    for count in ("1", "2", "3", "4"):
        row, target = measured[count], TARGETS.get(count)
        shares = [percent(*row[k]) for k in ("all_right", "exact", "share_right")]
        rows.append((count, row["n"], *shares, f"{100 * target:.0f} %" if target else "-"))
    head = ("objects", "N", "all right (colour and shape)", "exact", "share of objects right", "target for all right")
    sampler = f"{settings['sampler']} / {settings['scheduler']}, {settings['steps']} steps, CFG {settings['cfg']}"
    return "\n\n".join(
        [
            "## ShapesWorld",
            f"{settings['prompts']} held-out prompts, one picture each, unpicked seeds; {sampler}, inside ComfyUI on "
            f"{generator['device']}; judged by the reader.\nIn brackets: 95 % bootstrap interval over prompts. "
            "`exact`: and nothing is there that nobody asked for.",
            table(head, rows),
            f"Background right: {100 * measured['background_right']:.1f} % (target 95 %). Time per picture at batch "
            f"{settings['batch']}, decoding and judging included: {generator['seconds_per_picture']} s (target 2 s on "
            "two idle CPU cores).",
        ]
    )


def judges_section(facts: dict) -> str:
    judges, check = facts["judges"], facts.get("reader_check")
    lines = [
        f"Autoencoder: {judges['autoencoder_psnr_db']} dB PSNR on 128 held-out pictures (target 28). Reader: mean IoU "
        f"{judges['reader_mean_iou']} on 512 held-out pictures, 52 classes (target 0.90).",
    ]
    if check:
        lines.append(
            f"Reader against {check['pictures']} generated pictures labelled by eye: {100 * check['agreement']:.1f} % "
            f"of the objects agree in colour and shape ({check['agreeing']} of {check['objects']}; target 95 %)."
        )
    return "\n".join(lines)


def training_section(facts: dict) -> str:
    def show(row: dict) -> str:
        return ", ".join(f"{k} {v}" for k, v in row.items() if k != "step")

    rows = [
        (s["stage"], s["device"], s["minutes"], s["last"]["step"], show(s["first"]), show(s["last"]))
        for s in facts["training"]
    ]
    head = ("stage", "device", "minutes", "steps", "first logged", "last logged")
    notes = "\n".join(f"- {note}" for note in facts.get("notes", []))
    return "\n\n".join(filter(None, ["### Training log", table(head, rows), notes]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "shapesworld")
    parser.add_argument("--eval", type=Path, default=ROOT / "output" / "eval" / "shapesworld.json")
    parser.add_argument("--page-only", action="store_true", help="write the page again from docs/results.json")
    args = parser.parse_args()
    facts = json.loads(DATA.read_text()) if DATA.exists() else {}
    if not args.page_only:
        load_packages()
        generator = json.loads(args.eval.read_text())
        generator.pop("rows")
        facts.update(generator=generator, judges=measure(args.work), training=training_summary(args.work / "log.jsonl"))
        DATA.write_text(json.dumps(facts, indent=1) + "\n")
    PAGE.write_text(page(facts))


if __name__ == "__main__":
    main()
