"""The results page's sections on text encoders and on when the prompt acts."""

from __future__ import annotations

from ..tables import paragraphs, pictures_table, table


def encoders(rows: list[dict]) -> str:
    return paragraphs(
        "### One encoder, the other, both; weights by noise level",
        "One model, trained with CLIP, T5 and style left out each by itself; an encoder that is left out has an "
        "empty prompt. The curves are Encoder Schedule's. ShapesWorld's T5 learnt from its CLIP what words mean: "
        "this shows that the weights act, not that T5 reads better.",
        pictures_table(rows, "both"),
    )


def attended(found: dict) -> str:
    at = [0, len(found["sigma"]) // 2, len(found["sigma"]) - 1]
    groups = [name for name in found if name not in ("sigma", "prompts")]
    rows = [(f"{found['sigma'][i]:.2f}", *(f"{100 * found[name][i]:.0f} %" for name in groups)) for i in at]
    return paragraphs(
        "### Attention share per encoder",
        f"Share of cross-attention that goes to either encoder's tokens, mean over layers, heads, places and "
        f"{found['prompts']} prompts of the tuning set.",
        table(("sigma", *groups), rows),
        "![Attention](images/ediffi_attended.png)",
    )


def prompt_swap(found: dict) -> str:
    return paragraphs(
        "### Prompt switching",
        f"The shipped model; another prompt from some step on, {found['n']} pairs of prompts. The paper's probe: "
        "another prompt in the last 7 % changes nothing, in the first 40 % everything.",
        _swaps(found),
        "![Prompt swap](images/ediffi_swap.png)",
    )


def transformer_swap(found: dict) -> str:
    return paragraphs(
        "### Prompt switching on the flow transformer", f"The same with {found['n']} pairs of prompts.", _swaps(found)
    )


def _swaps(found: dict) -> str:
    rows = [
        (f"{100 * swap / found['steps']:.0f} %", f"{100 * first:.0f} %", f"{100 * second:.0f} %", f"{far:.3f}")
        for swap, first, second, far in zip(found["swaps"], found["first"], found["second"], found["far"])
    ]
    return table(
        ("steps with the first prompt", "its objects there", "the second's there",
         "colors off the first prompt's picture"), rows,
    )  # fmt: skip
