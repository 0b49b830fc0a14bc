"""The results page's section on style from a picture."""

from __future__ import annotations

from ..tables import paragraphs, percent, table


def styles(found: dict) -> str:
    rows = [
        (row["name"], row["n"], percent(*row["style"]), percent(*row["right"]), percent(*row["share"]))
        for row in found["rows"]
    ]
    return paragraphs(
        "### Style from a picture",
        "The reference is a painted picture of another scene in one of four styles; prompts name no style. Style: "
        "the reference's is what a classifier sees that was trained apart "
        f"({100 * found['judge']:.1f} % right on reference pictures; chance is 25 %). "
        "`start picture`: denoise 0.6 from a painted picture of the prompt in another style.",
        table(("", "N", "style of the reference", "all right", "share of objects right"), rows),
        "![Styles](images/ediffi_styles.png)",
    )
