"""How numbers are written in the results page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(mean: float, low: float, high: float) -> str:
    """A share with its interval, which the bootstrap may lead beyond what shares can be."""
    low, high = max(low, 0.0), min(high, 1.0)
    return f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def interval(values: list[float], factor: float = 1, digits: int = 1) -> str:
    value, low, high = (f"{factor * v:.{digits}f}" for v in values)
    return f"{value} [{low}, {high}]"


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def paragraphs(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


TWINS = (
    "Measured with reference pictures of the very scenes that the prompts are of: KID lies too low (a painter of the "
    "captions, places drawn anew, has -6.9 with 256 pictures and 1024 references, -1.4 with those of other scenes), "
    "and Frechet distances too; precision and recall of a prompt's rows say nothing (1.00 for that painter). "
    "Differences between rows stand. The next run takes other scenes."
)


def reference_note(report: Mapping[str, Any]) -> str:
    """What there is to know of the pictures that sets were compared with; "" where it is as it should be."""
    return "" if "reference" in report else TWINS


def measured_on(bench: dict) -> str:
    threads = "1 thread" if bench["threads"] == 1 else f"{bench['threads']} threads"
    return f"`make bench` on {bench['device']}, {threads}, torch {bench['torch']}"


def pictures_table(rows: list[dict], against: str) -> str:
    """Prompted sets of pictures, as `PictureSets.compared` gives them."""
    head = ("", "N", "all right", f"less {against}", "Frechet, CLIP B", "KID, CLIP B", f"less {against}")
    found = table(head, [
        (row["name"], row["n"], percent(*row["right"]), interval(row["right_against_none"], 100),
         interval(row["frechet"], 1), interval(row["kid"], 1), interval(row["kid_against_none"], 1))
        for row in rows
    ])  # fmt: skip
    return paragraphs(found, reference_note(rows[0]))
