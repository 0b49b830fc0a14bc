"""Joins what was measured (output/eval/report.json, output/bench/report.json) and writes docs/results.* from it.

`python -m tools.studies.report`, the last step of `make eval` and `make bench`; with --page-only only the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..comfy.pack import load_packages
from ..shapesworld import data, train_reader, train_vae
from . import record, suite, summary
from .attention_map import section as attention_map
from .demo_setup import DemoSetup
from .encoder_schedule import section as encoder_schedule
from .experts import section as experts
from .generator import section as generator
from .noise_optimization import section as noise_optimization
from .region_lora import section as region_lora
from .regions import section as regions
from .sag import section as sag
from .scaling import section as scaling
from .style import section as style
from .tables import paragraphs, table

MEASURED = {  # as the page's headings name them
    "generator": "ShapesWorld", "dit": "its flow transformer", "dit_placed": "told places",
    "dit_related": "told relations", "attention_map": "attention maps", "attention_map_dit": "those of the transformer",
    "sag": "Self-Attention Guidance with a prompt", "sag_without": "without one",
    **{f"sag_faults_{name}": f"local faults, {of}" for name, of in sag.MODELS.items()},
    "sag_bench": "its speed", "regions": "regions",
    "regions_start": "their start", "regions_start_dit": "on the transformer",
    "regions_trained": "on a model trained to follow them", "regions_overlap": "their overlaps",
    "regions_identities": "two of one kind", "regions_tuning": "their tuning",
    "regions_bench": "their speed", "region_lora": "their LoRAs", "region_lora_bench": "the speed of those",
    "latents": "starting latents", "latents_budgets": "at equal time",
    "latents_budgets_dit": "searches on the transformer",
    "latents_lines": "their gradients", "latents_bench": "their speed", "scaling": "growth with the picture",
    "losses": "losses of experts", "experts": "pictures of experts", "unlike": "unlike experts",
    "encoders": "two encoders",
    "attended": "attention to them", "styles": "style from a picture", "prompt_swap": "prompt swapped on the way",
    "prompt_swap_dit": "on the transformer",
}  # fmt: skip
NOT_YET: set[str] = set()  # which the page says
OWN_WEIGHTS = {"sag_faults_early"}  # trained for the measurement alone
HEAD = """# Results

Written by `python -m tools.studies.report` from `docs/results.json`; do not edit by hand.

Who judges: the *reader*, a small network that finds shapes, colors and background in a picture; *CLIP A*, the demo
model's own, which Load Scorer offers and some methods optimize; *CLIP B*, trained apart from it, which only judges.
*Reference pictures* are drawn by the program that drew the training pictures.
In brackets are 95 % intervals: the score interval for shares of right samples (bootstrap in tables measured before
27f9792), else by bootstrap.
Speed is measured on ShapesWorld as it ships, and on SD1.5 and SDXL in their real shapes with random weights."""


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
        {"stage": rows[0]["stage"], "device": rows[-1]["device"], "minutes": rows[-1]["minutes"],
         "first": keep(rows[0]), "last": keep(rows[-1])}
        for rows in runs
    ]  # fmt: skip


def measure(work: Path) -> dict:
    """Quality of the coder and of the reader on held-out painted pictures, from the shipped files."""
    demo = DemoSetup()
    held_out = data.build(work / "data" / "held_out", "held_out", 1024)
    return {
        "autoencoder_psnr_db": round(train_vae.evaluate(demo.vae.first_stage_model.float(), held_out), 2),
        "reader_mean_iou": round(train_reader.evaluate(demo.reader, held_out), 4),
    }


def page(facts: dict) -> str:
    """The page, from the data alone."""
    known = {"reader_check": None, "notes": [], "everything": facts, **facts}
    sections = [write(*(known[key] for key in keys)) for keys, write in SECTIONS if known.keys() >= {*keys}]
    return paragraphs(HEAD, summary.section(facts), *sections) + "\n"


def ediffi_section(report: dict) -> str:
    """Whatever of it was measured."""
    parts: dict[str, Callable[[Any], str]] = {
        "losses": experts.losses, "experts": experts.experts, "unlike": experts.unlike,
        "encoders": encoder_schedule.encoders, "attended": encoder_schedule.attended, "styles": style.styles,
        "prompt_swap": encoder_schedule.prompt_swap, "prompt_swap_dit": encoder_schedule.transformer_swap,
    }  # fmt: skip
    return paragraphs(
        "## eDiff-I in miniature on ShapesWorld",
        "`python -m tools.studies.ediffi`. In brackets: 95 % bootstrap intervals over pictures; differences are "
        "paired. Pictures: 20 steps of euler / normal, CFG 4, the same prompts and seeds in every row.",
        *(write(report[name]["found"]) for name, write in parts.items() if name in report),
    )


def short(commit: str) -> str:
    """As the page shows it."""
    return f"{commit[:7]}{'+' * commit.endswith('+')}" if commit else "not recorded"


def source_section(shipped: list[str], facts: dict) -> str:
    """Which code and which weights every number belongs to."""
    measured = {**facts, **facts.get("ediffi", {})}

    def weights(key: str) -> str:
        if key in OWN_WEIGHTS:
            return "made for it"
        return "those that ship" if measured[key].get("weights") in shipped else "older"

    redrawn = facts.get("redrawn", {"commit": "", "found": {}})
    rows = [
        (name, short(measured[key].get("commit", "")), weights(key), redrawn["found"].get(key, "-"))
        for key, name in MEASURED.items() if key in measured
    ]  # fmt: skip
    missing = ", ".join(name for key, name in MEASURED.items() if key in NOT_YET)
    return paragraphs(
        "## Provenance",
        table(("measured", "commit", "weights", "drawn again"), rows),
        f"*Drawn again*: one to five samples of most rows, with the code of {short(redrawn['commit'])} and with that "
        "of the table's own commit, on one machine. *Same*: bit for bit. Numbers are the largest mean difference of a "
        "picture, of 255."
        if redrawn["found"] else "",
        "+: with changes that were committed later.",
        f"Written, not yet measured: {missing}." if missing else "",
    )


# What a section needs of the facts, and what writes it, in the page's order.
SECTIONS: list[tuple[tuple[str, ...], Callable[..., str]]] = [
    (("generator",), generator.quality_section),
    (("judges", "reader_check"), generator.judges_section),
    (("dit", "dit_placed", "dit_related", "generator"), generator.transformer_section),
    (("sag", "sag_without"), sag.quality_section),
    (("sag_faults_unet",), sag.rule_section),
    (("sag_faults_unet",), sag.faults_section),
    (("sag_faults_early",), sag.faults_section),
    (("sag_faults_dit",), sag.faults_section),
    (("sag_bench",), sag.speed_section),
    (("attention_map", "attention_map_dit"), attention_map.quality_section),
    (("regions", "regions_tuning"), regions.quality_section),
    (("regions_start",), regions.start_section),
    (("regions_start_dit", "regions_start"), regions.transformer_section),
    (("regions_trained",), regions.trained_section),
    (("regions_overlap",), regions.overlap_section),
    (("regions_identities",), regions.identities_section),
    (("regions_bench",), regions.speed_section),
    (("region_lora",), region_lora.quality_section),
    (("region_lora_bench",), region_lora.speed_section),
    (("latents",), noise_optimization.quality_section),
    (("latents_budgets",), noise_optimization.budgets_section),
    (("latents_budgets_dit",), noise_optimization.transformer_budgets_section),
    (("latents_lines",), noise_optimization.lines_section),
    (("latents_bench",), noise_optimization.speed_section),
    (("scaling",), scaling.speed_section),
    (("ediffi",), ediffi_section),
    (("training", "notes"), generator.training_section),
    (("shipped", "everything"), source_section),
]


def reports(results: Path) -> dict[str, dict[str, Path]]:
    """Where measurements leave what the page is made of: "eval" and "bench", by name."""
    quality, speed = results / "eval", results / "bench"
    return {
        "eval": {
            "generator": quality / "shapesworld.json",
            "dit": quality / "dit.json",
            "dit_placed": quality / "dit_placed.json",
            "dit_related": quality / "dit_related.json",
            "sag": quality / "sag" / "with.json",
            "sag_without": quality / "sag" / "without.json",
            **{f"sag_faults_{name}": quality / "sag" / f"faults_{name}.json" for name in sag.MODELS},
            "attention_map": quality / "attention_map_unet.json",
            "attention_map_dit": quality / "attention_map_dit.json",
            "regions": quality / "regions" / "report.json",
            "regions_start": quality / "regions" / "start.json",
            "regions_start_dit": quality / "regions" / "dit_start.json",
            "regions_trained": quality / "regions" / "trained.json",
            "regions_overlap": quality / "regions" / "overlap.json",
            "regions_identities": quality / "regions" / "identities.json",
            "regions_tuning": quality / "regions" / "tune.json",
            "region_lora": quality / "region_lora.json",
            "latents": quality / "latents" / "report.json",
            "latents_budgets": quality / "latents" / "budgets.json",
            "latents_budgets_dit": quality / "latents" / "dit_budgets.json",
            "latents_lines": quality / "latents" / "lines.json",
            "ediffi": quality / "ediffi" / "report.json",
        },
        "bench": {
            "sag_bench": speed / "sag.json",
            "regions_bench": speed / "regions.json",
            "region_lora_bench": speed / "region_lora.json",
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
            record.write(results / kind / "report.json", found)
        measured |= found
    for name in ("generator", "dit", "dit_placed", "dit_related"):
        measured.get(name, {}).pop("rows", None)  # every single picture
    if "ediffi" in measured:  # what needs weights that do not ship is measured where they are, and stays
        measured["ediffi"] = {**facts.get("ediffi", {}), **measured["ediffi"]}
    return {**facts, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=suite.RESULTS, help="where eval/ and bench/ are")
    parser.add_argument("--docs", type=Path, default=suite.DOCS, help="where results.json and results.md go")
    parser.add_argument("--page-only", action="store_true", help="write the page again from results.json")
    args = parser.parse_args()
    path = args.docs / "results.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    if not args.page_only:
        load_packages()
        work = suite.RESULTS / "shapesworld"
        facts = {**gathered(facts, args.results), "judges": measure(work), "shipped": record.shipped()}
        if (work / "unet.pt").exists():  # only where the generator was trained
            facts["training"] = training_summary(work / "log.jsonl")
        record.write(path, facts)
    (args.docs / "results.md").write_text(page(facts))


if __name__ == "__main__":
    main()
