"""The results page's sections on Self-Attention Guidance."""

from __future__ import annotations

from ..tables import interval, measured_on, paragraphs, reference_note, table


def quality_section(prompted: dict, without: dict) -> str:
    """Tables like the paper's, and what was tried before."""
    return paragraphs(
        "## Self-Attention Guidance on ShapesWorld",
        f"`make eval`: {prompted['pictures']} pictures per row, the same seeds in every row, {prompted['steps']} steps "
        f"of {prompted['sampler']} on {prompted['device']}. Frechet distance and KID on CLIP B's features against 1024 "
        "reference pictures; lower is better. `blur`: the paper's blur guidance, the whole picture blurred. `less "
        "none`: the difference in KID, paired. In brackets: 95 % bootstrap interval over pictures.",
        "With a prompt. The last row is the control: plain CFG with as many steps, whose mean pull is as strong as "
        "SAG's and CFG's together.",
        *_compared(prompted),
        "Without a prompt, CFG 1. " + (
            "Runs begin with the mean of a painted picture in the noise (`start` of Load Demo Model)."
            if without.get("means") else
            "Runs begin with noise alone, from which this model makes no white backgrounds, so that these rows tell "
            "little: see `start` of Load Demo Model, which came later."
        ),
        *_compared(without),
    )  # fmt: skip


def _compared(report: dict) -> list[str]:
    """The rows of one report, what they were compared with, and which scales were tried."""

    def cell(row: dict, key: str, factor: float = 1, digits: int = 2) -> str:
        if key not in row:
            return "-"
        share = key in ("precision", "recall", "certain", "right")  # which the bootstrap may lead beyond one
        value, *interval = (f"{factor * (min(v, 1) if share else v):.{digits}f}" for v in row[key])
        return f"{value} [{', '.join(interval)}]" if interval else value

    rows = [
        (
            f"{row['method']} {row['scale']:g}" if row["scale"] else "none", f"{row['cfg']:g}",
            cell(row, "frechet"), cell(row, "kid"), cell(row, "kid_against_none"),
            cell(row, "precision"), cell(row, "recall"), cell(row, "certain", 100, 1), cell(row, "right", 100, 1),
        )
        for row in report["table"]
    ]  # fmt: skip
    head = ("guidance, scale", "CFG", "Frechet", "KID", "less none", "precision", "recall", "reader certain %",
            "all right %")  # fmt: skip
    tuning = report["tuning"]
    tried: dict[str, list[str]] = {}
    for trial in tuning["trials"]:
        tried.setdefault(trial["method"], []).append(f"{trial['scale']:g}: {trial['kid']:.2f}")
    scales = "; ".join(f"{method} {', '.join(each)}" for method, each in tried.items())
    return [
        table(head, rows), reference_note(report),
        f"Scales were chosen by KID on {tuning['pictures']} pictures of the tuning set: {scales}.",
    ]


CONTROL, BLIND = "six steps", "none: the control is not seen"
MODELS = {"unet": "the UNet", "early": "an early UNet", "dit": "the flow transformer"}


def faults_section(report: dict) -> str:
    """Whether SAG mends local faults of one model."""
    name, found = MODELS[report["name"]], report["table"]
    rows = [
        (row["name"], f"yes, CFG {row['cfg']:.3g}" if row["prompted"] else "no", row["n"],
         *(interval(row[key], 100, 2) for key in ("borders", "borders_less_none")),
         *(interval(row[key], 1, 2) for key in ("specks", "specks_less_none")),
         interval(row["kid"], 1, 3), interval(row["kid_less_none"], 1, 3),
         interval(row["right"], 100) if row["prompted"] else "-",
         _verdict(row, found) if row["name"] != "none" else "-")
        for row in found
    ]  # fmt: skip
    head = ("", "prompt", "N", "unsure along borders %", "less none", "specks", "less none", "KID, early features",
            "less none", "all right %", "verdict")  # fmt: skip
    chosen = [
        f"{'with' if row['prompted'] else 'without'} a prompt scale {row['scale']:g}, blocks {row['blocks']}, blur "
        f"{row['blur_sigma']:g}, {row['mask_mode']} masks, window {row['window'][0]:g} to {row['window'][1]:g}"
        for row in found if row["name"] == "SAG"
    ]  # fmt: skip
    painted = report["painted"]
    return paragraphs(
        f"### Local faults, {name}",
        f"Reference pictures: {100 * painted['borders']:.2f} % unsure along borders, {painted['specks']:.2f} specks. "
        f"Chosen on the tuning set: {'; '.join(chosen)}.",
        table(head, rows),
    )


def _verdict(row: dict, found: list[dict]) -> str:
    """By the rule, or that the measure cannot tell: it does not see the negative control of the same prompts."""
    controls = [each for each in found if each["name"] == CONTROL and each["prompted"] == row["prompted"]]
    is_blind = row["name"] != CONTROL and any(each["borders_less_none"][1] <= 0 for each in controls)
    return BLIND if is_blind else row["verdict"]


def rule_section(report: dict) -> str:
    """What the tables of local faults say, and by which rule."""
    return paragraphs(
        "## Whether Self-Attention Guidance mends local faults",
        "`python -m tools.studies.sag.faults`. Where the guidance can help at all is a model with local faults: "
        "smeared borders, specks, mottled textures. *Unsure along borders*: how unsure the reader is within two pixels "
        "of a border that it finds, in the mean. *Specks*: patches too small for an object. KID on an early layer of "
        "CLIP B, against reference pictures. *CFG as strong*: the control, plain CFG whose mean pull is as strong as "
        "SAG's and CFG's together. *Six steps*: the negative control, without guidance; a measure that does not see it "
        "sees nothing. Fixed beforehand: the measure, N, what is tried (scales, blocks, blur, soft masks, windows, on "
        f"{report['tuning']} other pictures), and the rule: SAG helps if the paired difference along borders lies "
        "below 0 with its whole 95 % interval and KID is not worse beyond chance (else borders are surer, and pictures "
        "farther from reference pictures); it harms if it lies above. The report set was drawn once. Blocks are tried "
        "on UNets only. The early UNet is one after a short training from nothing.",
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
