"""Joins what was measured (output/eval/report.json, output/bench/report.json) and writes docs/results.* from it.

`python -m tools.studies.report`, the last step of `make eval` and `make bench`; with --page-only only the page.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..comfy.pack import load_packages
from . import record, suite
from .experts.section import ediffi_section
from .noise_optimization.section import latents_bench_section, latents_section, lines_section
from .regions.section import regions_bench_section, regions_section
from .scaling.section import scaling_section
from .tables import percent, table

MEASURED = {  # as the page's headings name them
    "generator": "ShapesWorld", "sag": "Self-Attention Guidance", "sag_bench": "its speed", "regions": "regions",
    "regions_tuning": "their tuning", "regions_bench": "their speed", "latents": "starting latents",
    "latents_lines": "their gradients", "latents_bench": "their speed", "scaling": "growth with the picture",
    "losses": "losses of experts", "experts": "pictures of experts", "encoders": "two encoders",
    "attended": "attention to them", "styles": "style from a picture", "prompt_swap": "prompt swapped on the way",
}  # fmt: skip
HEAD = """# Results

Written by `python -m tools.studies.report` from `docs/results.json`; do not edit by hand.

Who judges: the *reader*, a small network that finds shapes, colours and background in a picture; *CLIP A*, the demo
model's own, which Load Scorer offers and some methods optimise; *CLIP B*, trained apart from it, which only judges.
Speed is measured on ShapesWorld as it ships, and on SD1.5 and SDXL in their real shapes with random weights."""
TARGETS = {"1": 0.95, "2": 0.80, "3": 0.55}


def training_summary(log: Path) -> list[dict]:
    """Per run of a stage, in order: device, minutes, steps and the first and last logged row.

    A run begins at step 0, from nothing or from the weights of the run before; one that was interrupted goes on later.
    """
    runs: list[list[dict]] = []
    latest: dict[str, list[dict]] = {}
    for line in log.read_text().splitlines():
        row = json.loads(line)
        if row["step"] == 0:
            runs.append([])
            latest[row["stage"]] = runs[-1]
        latest[row["stage"]].append(row)
    keep = lambda row: {k: v for k, v in row.items() if k not in ("stage", "device", "minutes")}  # noqa: E731
    return [
        {
            "stage": rows[0]["stage"],
            "device": rows[-1]["device"],
            "minutes": rows[-1]["minutes"],
            "first": keep(rows[0]),
            "last": keep(rows[-1]),
        }
        for rows in runs
    ]


def measure(work: Path) -> dict:
    """Quality of the coder and of the reader on held-out painted pictures, from the shipped files."""
    from fovea.models.shapesworld import loader as demo_model

    from ..shapesworld import data, train_reader, train_vae

    held_out = data.build(work / "data" / "held_out", "held_out", 1024)
    return {
        "autoencoder_psnr_db": round(train_vae.evaluate(demo_model.load_vae().first_stage_model.float(), held_out), 2),
        "reader_mean_iou": round(train_reader.evaluate(demo_model.load_reader(), held_out), 4),
    }


def page(facts: dict) -> str:
    """The page, from the data alone."""
    sections = [HEAD]
    if "generator" in facts:
        sections.append(generator_section(facts["generator"]))
    if "judges" in facts:
        sections.append(judges_section(facts))
    if "sag" in facts:
        sections.append(sag_section(facts["sag"]))
    if "sag_bench" in facts:
        sections.append(sag_bench_section(facts["sag_bench"]))
    if "regions" in facts and "regions_tuning" in facts:
        sections.append(regions_section(facts["regions"], facts["regions_tuning"]))
    if "regions_bench" in facts:
        sections.append(regions_bench_section(facts["regions_bench"]))
    if "latents" in facts:
        sections.append(latents_section(facts["latents"]))
    if "latents_lines" in facts:
        sections.append(lines_section(facts["latents_lines"]))
    if "latents_bench" in facts:
        sections.append(latents_bench_section(facts["latents_bench"]))
    if "scaling" in facts:
        sections.append(scaling_section(facts["scaling"]))
    if "ediffi" in facts:
        sections.append(ediffi_section(facts["ediffi"]))
    if "training" in facts:
        sections.append(training_section(facts))
    if "shipped" in facts:
        sections.append(source_section(facts))
    return "\n\n".join(sections) + "\n"


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


def sag_section(sag: dict) -> str:
    """A table like the paper's, and what was tried before."""

    def cell(row: dict, key: str, factor: float = 1, digits: int = 2) -> str:
        if key not in row:
            return "-"
        share = key in ("precision", "recall", "certain", "right")  # which the bootstrap may lead beyond one
        value, *interval = (f"{factor * (min(v, 1) if share else v):.{digits}f}" for v in row[key])
        return f"{value} [{', '.join(interval)}]" if interval else value

    rows = [
        (
            f"{row['method']} {row['scale']:g}" if row["scale"] else "none",
            f"yes, CFG {row['cfg']:g}" if row["prompted"] else "no",
            cell(row, "frechet"), cell(row, "kid"), cell(row, "kid_against_none"),
            cell(row, "precision"), cell(row, "recall"), cell(row, "certain", 100, 1), cell(row, "right", 100, 1),
        )
        for row in sag["table"]
    ]  # fmt: skip
    head = ("guidance, scale", "prompt", "Frechet", "KID", "less none", "precision", "recall",
            "reader certain %", "all right %")  # fmt: skip
    tuning = sag["tuning"]
    tried = [
        (t["method"], "yes" if t["prompted"] else "no", f"{t['scale']:g}", f"{t['kid']:.2f}",
         f"{100 * t['right']:.0f}" if t["prompted"] else "-")
        for t in tuning["trials"]
    ]  # fmt: skip
    return "\n\n".join(
        [
            "## Self-Attention Guidance on ShapesWorld",
            f"`make eval`: {sag['pictures']} pictures per row, the same seeds in every row, {sag['steps']} steps of "
            f"{sag['sampler']} on {sag['device']}. Frechet distance and KID on CLIP B's features against 1024 painted "
            "pictures; lower is better. `blur`: the paper's blur guidance, the whole picture blurred. The last row is "
            "the control: plain CFG with as many steps, whose mean pull is as strong as SAG's and CFG's together. "
            "`less none`: the difference in KID, paired. In brackets: 95 % bootstrap interval over pictures.",
            table(head, rows),
            f"Scales were chosen by KID on {tuning['pictures']} pictures of the tuning set, three trials per method:",
            table(("guidance", "prompt", "scale", "KID", "all right %"), tried),
        ]
    )


def sag_bench_section(bench: dict) -> str:
    """Time and memory of every case, each method beside no guidance in the same run."""
    parts = [
        "## Speed and memory of Self-Attention Guidance",
        f"`make bench` on {bench['device']}, {bench['threads']} threads, torch {bench['torch']}; methods take turns. "
        "Time per step at CFG 5 over that without guidance, with (largest - smallest) / median of the repeats; peak "
        "memory of a run above what was there before.",
    ]
    for case in bench["cases"]:
        alone = case["recorder"]
        rows = [
            (name, m["seconds_per_step"], m["ratio_to_none"], m["spread"], f"{m['peak_mib']:.0f}")
            for name, m in case["methods"].items()
        ]
        parts += [
            f"**{case['model']}**, {case['size']} pixels, batch {case['batch']}, {case['dtype']}, "
            f"{case['repeats']} repeats",
            table(("guidance", "s per step", "ratio", "spread", "peak MiB"), rows),
            f"The recorder by itself, {alone['tokens']} tokens: {100 * alone['share_of_a_plain_step']:.2f} % of a "
            f"plain step; its peak is {100 * alone['peak_to_core_map']:.2f} % of the map that the host's SAG keeps.",
        ]
    if "nvidia" not in bench["device"].lower():
        parts.append("No GPU has been measured yet.")
    return "\n\n".join(parts)


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


def source_section(facts: dict) -> str:
    """Which code and which weights every number belongs to."""
    measured = {**facts, **facts.get("ediffi", {})}
    rows = [
        (name, measured[key].get("commit", "")[:7] or "not recorded",
         "those that ship" if measured[key].get("weights") in facts["shipped"] else "older")
        for key, name in MEASURED.items() if key in measured
    ]  # fmt: skip
    return "\n\n".join(["## Where the numbers come from", table(("measured", "commit", "weights"), rows)])


def reports(results: Path) -> dict[str, dict[str, Path]]:
    """Where measurements leave what the page is made of: "eval" and "bench", by name."""
    quality, speed = results / "eval", results / "bench"
    return {
        "eval": {
            "generator": quality / "shapesworld.json",
            "sag": quality / "sag" / "report.json",
            "regions": quality / "regions" / "report.json",
            "regions_tuning": quality / "regions" / "tune.json",
            "latents": quality / "latents" / "report.json",
            "latents_lines": quality / "latents" / "lines.json",
            "ediffi": quality / "ediffi" / "report.json",
        },
        "bench": {
            "sag_bench": speed / "sag.json",
            "regions_bench": speed / "regions.json",
            "latents_bench": speed / "latents.json",
            "scaling": speed / "scaling.json",
        },
    }


def gathered(facts: dict, results: Path) -> dict:
    """The facts with what was measured since; also written as one report of quality and one of speed."""
    measured: dict[str, dict] = {}
    for kind, files in reports(results).items():
        found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
        if found:
            (results / kind / "report.json").write_text(json.dumps(found, indent=1) + "\n")
        measured |= found
    measured.get("generator", {}).pop("rows", None)  # every single picture
    if "ediffi" in measured:  # what needs weights that do not ship is measured where they are, and stays
        measured["ediffi"] = {**facts.get("ediffi", {}), **measured["ediffi"]}
    return {**facts, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=suite.RESULTS, help="where eval/ and bench/ are")
    parser.add_argument("--docs", type=Path, default=suite.DOCS, help="where results.json and results.md go")
    parser.add_argument("--page-only", action="store_true", help="write the page again from results.json")
    args = parser.parse_args()
    data = args.docs / "results.json"
    facts = json.loads(data.read_text()) if data.exists() else {}
    if not args.page_only:
        load_packages()
        args.docs.mkdir(parents=True, exist_ok=True)
        work = suite.RESULTS / "shapesworld"
        facts = {**gathered(facts, args.results), "judges": measure(work), "shipped": record.shipped()}
        if (work / "unet.pt").exists():  # only where the generator was trained
            facts["training"] = training_summary(work / "log.jsonl")
        data.write_text(json.dumps(facts, indent=1) + "\n")
    (args.docs / "results.md").write_text(page(facts))


if __name__ == "__main__":
    main()
