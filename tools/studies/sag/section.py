"""The results page's sections on Self-Attention Guidance."""

from __future__ import annotations

from ..tables import measured_on, paragraphs, table


def quality_section(report: dict) -> str:
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
        for row in report["table"]
    ]  # fmt: skip
    head = ("guidance, scale", "prompt", "Frechet", "KID", "less none", "precision", "recall",
            "reader certain %", "all right %")  # fmt: skip
    tuning = report["tuning"]
    tried = [
        (t["method"], "yes" if t["prompted"] else "no", f"{t['scale']:g}", f"{t['kid']:.2f}",
         f"{100 * t['right']:.0f}" if t["prompted"] else "-")
        for t in tuning["trials"]
    ]  # fmt: skip
    start = (
        "Without a prompt runs begin with the mean of a painted picture in the noise (`start` of Load Demo Model)."
        if report.get("means") else
        "Without a prompt runs begin with noise alone, from which this model makes no white backgrounds, so that these "
        "rows tell little: see `start` of Load Demo Model, which came later."
    )  # fmt: skip
    return paragraphs(
        "## Self-Attention Guidance on ShapesWorld",
        f"`make eval`: {report['pictures']} pictures per row, the same seeds in every row, {report['steps']} steps "
        f"of {report['sampler']} on {report['device']}. Frechet distance and KID on CLIP B's features against 1024 "
        "painted pictures; lower is better. `blur`: the paper's blur guidance, the whole picture blurred. The last row "
        "is the control: plain CFG with as many steps, whose mean pull is as strong as SAG's and CFG's together. "
        "`less none`: the difference in KID, paired. In brackets: 95 % bootstrap interval over pictures.",
        start,
        table(head, rows),
        f"Scales were chosen by KID on {tuning['pictures']} pictures of the tuning set, three trials per method:",
        table(("guidance", "prompt", "scale", "KID", "all right %"), tried),
    )


def speed_section(bench: dict) -> str:
    """Time and memory of every case, each method beside no guidance in the same run."""
    parts = [
        "## Speed and memory of Self-Attention Guidance",
        f"{measured_on(bench)}; methods take turns. "
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
            f"plain step; its peak is {100 * alone['peak_to_core_map']:.2f} % of the map that ComfyUI's SAG keeps.",
        ]
    if "nvidia" not in bench["device"].lower():
        parts.append("No GPU has been measured yet.")
    return paragraphs(*parts)
