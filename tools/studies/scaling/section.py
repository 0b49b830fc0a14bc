"""The results page's section on how techniques scale."""

from __future__ import annotations

from ..tables import measured_on, paragraphs, table


def speed_section(bench: dict) -> str:
    """Time and peak over that of plain sampling, a column per size."""
    cases = bench["cases"]
    sizes = list(dict.fromkeys(case["size"] for case in cases))
    at = {(case["technique"], case["size"]): case for case in cases}
    rows = [
        (name, *(f"{at[name, size]['to_plain']:.2f} / {at[name, size]['peak_to_plain']:.2f}" for size in sizes))
        for name in dict.fromkeys(case["technique"] for case in cases)
    ]
    tokens = {case["size"]: case["tokens"] for case in cases}
    head = ("time / peak memory, to plain", *(f"{size} pixels, {tokens[size]} tokens" for size in sizes))
    widest = max(case["spread"] for case in cases)
    return paragraphs(
        "## Time and memory over the size of the picture",
        f"{measured_on(bench)}: the demo model, "
        f"two steps at CFG 4, each technique in every step, {cases[0]['repeats']} turns, whose widest spread is "
        f"{100 * widest:.0f} %. SAG, regions and two experts include what they prepare once per run, which two "
        "steps bear alone. A style is a third evaluation.",
        table(head, rows),
        "![Scaling](images/scaling.png)",
    )
