"""The results page's section on experts, encoders and style."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..regions.section import interval
from ..tables import percent, table


def ediffi_section(report: dict) -> str:
    """Whatever of it was measured."""
    parts: dict[str, Callable[[Any], str]] = {
        "losses": losses, "experts": experts, "encoders": encoders, "attended": attended, "styles": styles,
        "prompt_swap": prompt_swap,
    }  # fmt: skip
    head = [
        "## eDiff-I in miniature on ShapesWorld",
        "`python -m tools.studies.ediffi`. In brackets: 95 % bootstrap intervals over pictures; differences are "
        "paired. Pictures: 20 steps of euler / normal, CFG 4, the same prompts and seeds in every row.",
    ]
    return "\n\n".join([*head, *(write(report[name]["found"]) for name, write in parts.items() if name in report)])


def losses(found: dict) -> str:
    """Per tenth of the timesteps, less the shipped model's."""
    edges = found["timesteps"]
    names = [key.removesuffix(" less base") for key in found if key.endswith(" less base")]
    rows = [
        (f"{low} to {high}", f"{1e4 * base:.1f}",
         *(interval(found[f"{name} less base"][i], 1e4) for name in names))
        for i, (low, high, base) in enumerate(zip(edges, edges[1:], found["base"]))
    ]  # fmt: skip
    head = ("timesteps", "shipped", *(f"{SAID[name]} less shipped" for name in names))
    return "\n\n".join(
        [
            "### Loss of experts per noise level",
            f"Mean squared error of the v-prediction times 10,000 on {found['n']} held-out pictures, the same noise "
            "for all. Experts begin as the shipped model and see their half of the noise for 18 minutes (two cores; "
            "a level deeper 9 more); `trained on` sees all noise for the 36 minutes of both.",
            table(head, rows),
            "![Losses](images/ediffi_losses.png)",
        ]
    )


SAID = {
    "expert_high": "high noise (660 on)", "expert_low": "low noise (to 660)", "expert_control": "trained on",
    "expert_top": "highest noise (841 on)",
}  # fmt: skip


def _pictures(rows: list[dict], against: str) -> str:
    head = ("", "N", "all right", f"less {against}", "Frechet, CLIP B", "KID, CLIP B", f"less {against}")
    return table(head, [
        (row["name"], row["n"], percent(*row["right"]), interval(row["right_against_none"], 100),
         interval(row["frechet"], 1), interval(row["kid"], 1), interval(row["kid_against_none"], 1))
        for row in rows
    ])  # fmt: skip


def experts(rows: list[dict]) -> str:
    return "\n\n".join(
        [
            "### Pictures by experts",
            "`as LoRA`: the low-rank part of the experts' change, as it ships. All right: every object in its "
            "colour and shape, by the reader.",
            _pictures(rows, "base"),
        ]
    )


def encoders(rows: list[dict]) -> str:
    return "\n\n".join(
        [
            "### One encoder, the other, both; weights by noise level",
            "One model, trained with CLIP, T5 and style left out each by itself; an encoder that is left out has an "
            "empty prompt. The curves are Encoder Schedule's. ShapesWorld's T5 learnt from its CLIP what words mean: "
            "this shows that the weights act, not that T5 reads better.",
            _pictures(rows, "both"),
        ]
    )


def attended(found: dict) -> str:
    at = [0, len(found["sigma"]) // 2, len(found["sigma"]) - 1]
    groups = [name for name in found if name not in ("sigma", "prompts")]
    rows = [(f"{found['sigma'][i]:.2f}", *(f"{100 * found[name][i]:.0f} %" for name in groups)) for i in at]
    return "\n\n".join(
        [
            "### Who is attended to",
            f"Share of cross-attention that goes to either encoder's tokens, mean over layers, heads, places and "
            f"{found['prompts']} prompts of the tuning set.",
            table(("sigma", *groups), rows),
            "![Attention](images/ediffi_attended.png)",
        ]
    )


def styles(found: dict) -> str:
    rows = [
        (row["name"], row["n"], percent(*row["style"]), percent(*row["right"]), percent(*row["share"]))
        for row in found["rows"]
    ]
    return "\n\n".join(
        [
            "### Style from a picture",
            "The reference is a painted picture of another scene in one of four styles; prompts name no style. Style: "
            "the reference's is what a classifier sees that was trained apart "
            f"({100 * found['judge']:.1f} % right on painted pictures; chance is 25 %). "
            "`start picture`: denoise 0.6 from a painted picture of the prompt in another style.",
            table(("", "N", "style of the reference", "all right", "share of objects right"), rows),
            "![Styles](images/ediffi_styles.png)",
        ]
    )


def prompt_swap(found: dict) -> str:
    steps = found["steps"]
    rows = [
        (f"{100 * swap / steps:.0f} %", f"{100 * first:.0f} %", f"{100 * second:.0f} %", f"{far:.3f}")
        for swap, first, second, far in zip(found["swaps"], found["first"], found["second"], found["far"])
    ]
    return "\n\n".join(
        [
            "### When the prompt acts",
            f"The shipped model; another prompt from some step on, {found['n']} pairs of prompts. The paper's probe: "
            "another prompt in the last 7 % changes nothing, in the first 40 % everything.",
            table(("steps with the first prompt", "its objects there", "the second's there",
                   "colours off the first prompt's picture"), rows),
            "![Prompt swap](images/ediffi_swap.png)",
        ]
    )  # fmt: skip
