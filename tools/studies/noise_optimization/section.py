"""The results page's sections on starting latents."""

from __future__ import annotations

from collections.abc import Sequence

from ..tables import interval, measured_on, paragraphs, table

BASELINES = ("none", "best of n", "DOODL")
BEGINS = "halving, then "  # name of a search with a move
AGAINST, TWICE = ("none", "best of n", f"{BEGINS}DOODL"), "best of n in twice the time"  # what others are compared with


def quality_section(report: dict) -> str:
    """Every method at equal time, by judges that it has not seen."""
    found = report["table"]
    order = sorted(found, key=lambda name: -found[name]["clip_b"][0])
    rows = [
        (name, f"{r['settings']['candidates']} + {r['settings']['iterations']}", interval(r["clip_b"], 100),
         *_differences(name, r, "clip_b", BASELINES), interval(r["share_right"], 100),
         *_differences(name, r, "share_right", BASELINES[:2]),
         interval(r["all_right"], 100), interval(r["exact"], 100), interval(r["clip_a"], 100), r["seconds"])
        for name, r in ((name, found[name]) for name in order)
    ]  # fmt: skip
    head = ("method", "candidates + iterations", "CLIP B", *(f"less {name}" for name in BASELINES), "objects right %",
            *(f"less {name}" for name in BASELINES[:2]), "all right %", "exact %", "CLIP A (optimized)",
            "s")  # fmt: skip
    return paragraphs(
        "## Starting latents on ShapesWorld",
        f"`make eval`: {report['prompts']} prompts of two to four objects, the same seeds for every method; "
        f"{report['steps']} steps of euler / normal, CFG {report['cfg']:g}, on {report['device']}, one thread. "
        "Every method optimizes what CLIP A says of the picture; CLIP B and the reader, which none sees, judge. CLIP B "
        "was trained as CLIP A was, apart from it; the reader in another way: what it does not confirm is a hint. "
        f"All but `none` and `CLIP guidance` have the time that SGOOL's {report['iterations']} iterations take. Scores "
        "are cosines times 100. In brackets: 95 % bootstrap interval over prompts; differences are paired. "
        "`past the model`: the gradient at the finished latent is used as the direction of the noise, without "
        "going back through the model, from the best of twelve candidates. `cutouts anywhere` is the control: squares "
        "drawn without looking at saliency, the spectral residual elsewhere. Rates, candidates and guidance scale were "
        "chosen by looking at four to twelve prompts of the tuning set; DOODL's rate is 3 (1 as published moved "
        "less). Counts come from timing on one more prompt, three turns each.",
        table(head, rows),
        "![Scores](images/latents_scores.png)",
        "The best of CLIP A's losses so far, in the mean over prompts, for methods that look at the whole picture:",
        "![Losses over time](images/latents_curves.png)",
        "The first prompts, unpicked:",
        "![Pictures](images/latents_methods.png)",
    )


def _differences(name: str, row: dict, key: str, others: Sequence[str]) -> list[str]:
    """Paired, of one judge's number, to each of the others that a row was compared with."""
    return [interval(row["against"][other][key], 100) if other != name and other in row["against"] else "-"
            for other in others]  # fmt: skip


def budgets_section(report: dict) -> str:
    """What searches find in the time of so many pictures, all from the same candidates."""
    moves = ", ".join(f"{name} {seconds[1]:.2f}" for name, seconds in report["costs"]["move"].items())
    return paragraphs(
        "## Searches at equal time",
        f"`python -m tools.studies.noise_optimization.budgets`: {report['prompts']} prompts of two to four objects, "
        f"{report['steps']} steps, CFG {report['cfg']:g}, batches of {report['batch']}, on {report['device']}, one "
        "thread. The seconds of one picture, of a candidate and of an iteration were measured first, alone; every "
        "method has what fits into its time by these, decoding and scoring included; what runs took, whose length "
        "varies with the machine, is in the last column. Where a method moves the noise, half of "
        "the time is for candidates, found by halving, and all moves start from the same best one. CLIP A is "
        "optimized; CLIP B and the reader judge. CLIP B gives reference pictures of the same scenes "
        f"{interval(report['ceiling'], 100)}. Differences are paired.",
        f"{_seconds(report)}; of an iteration: {moves}.",
        *_budget_tables(report, "###"),
        "![The best of CLIP A's losses so far over time](images/latents_budgets.png)",
    )


def transformer_budgets_section(report: dict) -> str:
    """The same searches on the flow transformer."""
    return paragraphs(
        "### Searches on the flow transformer",
        f"`python -m tools.studies.noise_optimization.budgets --model dit`: as above, {report['prompts']} prompts; "
        "nothing moves the noise by its gradient.",
        f"{_seconds(report)}.",
        *_budget_tables(report, "####"),
    )


def _seconds(report: dict) -> str:
    each = ", ".join(f"{name} {seconds[1]:.2f}" for name, seconds in report["costs"]["search"].items())
    return f"Seconds: one picture {report['costs']['one']:.2f}; of a candidate: {each}"


def _budget_tables(report: dict, level: str) -> list[str]:
    """A table per budget under its title, and what halving finds in half of the time."""
    parts: list[str] = []
    for budget in report["budgets"]:
        parts += [f"{level} At the time of {budget} pictures", _budget_table(report["table"], str(budget))]
    halves = [
        f"- Halving in the time of {half} pictures less best of n in that of {whole}: CLIP B "
        f"{interval(report['table'][f'halving @ {half}']['against'][TWICE]['clip_b'], 100)}, objects right "
        f"{interval(report['table'][f'halving @ {half}']['against'][TWICE]['share_right'], 100)}."
        for half, whole in report["halves"]
    ]
    return [*parts, "\n".join(halves)]


def _budget_table(found: dict, budget: str) -> str:
    """Best first."""
    own = {name.partition(" @ ")[0]: row for name, row in found.items() if name.endswith(f" @ {budget}")}
    own = {"none": found["none @ 1"], **own}
    others = [peer for peer in AGAINST if any(peer in row["against"] for row in own.values())]
    rows = [
        (name, f"{row['settings']['candidates']} + {row['settings']['iterations']}", interval(row["clip_b"], 100),
         *_differences(name, row, "clip_b", others), interval(row["share_right"], 100),
         *_differences(name, row, "share_right", others),
         interval(row["all_right"], 100), interval(row["clip_a"], 100),
         f"{row['seconds'] / own['best of n']['seconds']:.2f}")
        for name, row in sorted(own.items(), key=lambda item: -item[1]["clip_b"][0])
    ]  # fmt: skip
    head = ("method", "candidates + iterations", "CLIP B", *(f"less {peer}" for peer in others), "objects right %",
            *(f"less {peer}" for peer in others), "all right %", "CLIP A (optimized)",
            "time, to best of n")  # fmt: skip
    return table(head, rows)


def lines_section(report: dict) -> str:
    """How far the directions hold."""
    head = ("direction", *(f"{100 * step:g} %" for step in report["steps"]))
    rows = [
        (name, *(f"{middle:.3f} ({100 * better:.0f} %)" for middle, better in zip(found["median"], found["better"])))
        for name, found in report["table"].items()
    ]
    return paragraphs(
        "### How far a gradient of the starting noise holds",
        f"CLIP A's loss after one step over that before: the median of {report['prompts']} prompts of the tuning "
        "set, and in brackets for how many of them it fell by more than 0.5 %. A step turns the noise by this share of "
        "its length.",
        table(head, rows),
    )


def speed_section(bench: dict) -> str:
    """Seconds per update in both modes, and peaks over the number of steps."""
    rows = [
        (case["model"], f"{case['size']} pixels", case["mode"], case["steps"], case["seconds"], case["to_sampling"],
         f"{case['peak_mib']:.0f}")
        for case in bench["cases"]
    ]  # fmt: skip
    head = ("model", "size", "gradient", "steps", "s per update", "to plain sampling", "peak MiB")
    return paragraphs(
        "## Speed and memory of optimizing a latent",
        f"{measured_on(bench)}, batch 1, CFG 5. "
        "One update: sampling, decoding, scoring, and the gradient back. `to plain sampling`: its time over that "
        "of sampling, decoding and scoring alone with as many steps. Peaks are above what was there before.",
        table(head, rows),
    )
