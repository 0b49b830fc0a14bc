"""Collects what was measured into docs/results.json and writes docs/results.md from it: `python -m tools.shapesworld.report`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..pack import ROOT, load_packages

DATA, PAGE = ROOT / "docs" / "results.json", ROOT / "docs" / "results.md"
TARGETS = {"1": 0.95, "2": 0.80, "3": 0.55}


def training_summary(log: Path) -> list[dict]:
    """Per stage: device, minutes, steps and the first and last logged row."""
    stages: dict[str, list[dict]] = {}
    for line in log.read_text().splitlines():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append(row)
    keep = lambda row: {k: v for k, v in row.items() if k not in ("stage", "device", "minutes")}  # noqa: E731
    return [{"stage": name, "device": rows[-1]["device"], "minutes": rows[-1]["minutes"], "first": keep(rows[0]), "last": keep(rows[-1])}
            for name, rows in stages.items()]


def measure(work: Path) -> dict:
    """Quality of the coder and of the reader on held-out painted pictures, from the shipped files."""
    from fovea.models import demo

    from . import data, train_reader, train_vae

    held_out = data.Dataset(work / "data" / "held_out")
    return {"autoencoder_psnr_db": round(train_vae.evaluate(demo.load_vae().first_stage_model.float(), held_out), 2),
            "reader_mean_iou": round(train_reader.evaluate(demo.load_reader(), held_out), 4)}


def page(facts: dict) -> str:
    """The page, from the data alone."""
    table, settings = facts["generator"]["table"], facts["generator"]["settings"]
    lines = [
        "# Results", "",
        "Written by `python -m tools.shapesworld.report` from `docs/results.json`; do not edit by hand.", "",
        "## ShapesWorld", "",
        f"{settings['prompts']} held-out prompts, one picture each, unpicked seeds; {settings['sampler']} / {settings['scheduler']}, "
        f"{settings['steps']} steps, CFG {settings['cfg']}, inside ComfyUI on {facts['generator']['device']}; judged by the reader. "
        "In brackets: 95 % bootstrap interval over prompts. `exact` also counts objects that nobody asked for.", "",
        "| objects | N | all right (colour and shape) | exact | share of objects right | target for all right |",
        "|---|---|---|---|---|---|",
    ]
    for count in ("1", "2", "3", "4"):
        row = table[count]
        cells = " | ".join(f"{100 * m:.1f} % [{100 * a:.1f}, {100 * b:.1f}]" for m, a, b in (row[k] for k in ("all_right", "exact", "share_right")))
        target = f"{100 * TARGETS[count]:.0f} %" if count in TARGETS else "-"
        lines.append(f"| {count} | {row['n']} | {cells} | {target} |")
    lines += [
        "", f"Background right: {100 * table['background_right']:.1f} % (target 95 %). "
        f"Time per picture at batch {settings['batch']}, decoding and judging included: {facts['generator']['seconds_per_picture']} s "
        "(target 2 s on two idle CPU cores).", "",
        f"Autoencoder: {facts['judges']['autoencoder_psnr_db']} dB PSNR on 128 held-out pictures (target 28). "
        f"Reader: mean IoU {facts['judges']['reader_mean_iou']} on 512 held-out pictures, 52 classes (target 0.90).", "",
    ]
    if "reader_check" in facts:
        check = facts["reader_check"]
        lines += [f"Reader against {check['pictures']} generated pictures labelled by eye: {100 * check['agreement']:.1f} % of the objects "
                  f"agree in colour and shape ({check['agreeing']} of {check['objects']}; target 95 %).", ""]
    lines += ["### Training log", "", "| stage | device | minutes | steps | first logged | last logged |", "|---|---|---|---|---|---|"]
    for stage in facts["training"]:
        show = lambda row: ", ".join(f"{k} {v}" for k, v in row.items() if k != "step")  # noqa: E731
        lines.append(f"| {stage['stage']} | {stage['device']} | {stage['minutes']} | {stage['last']['step']} | {show(stage['first'])} | {show(stage['last'])} |")
    lines += ["", *(f"- {note}" for note in facts.get("notes", []))]
    return "\n".join(lines).rstrip() + "\n"


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
