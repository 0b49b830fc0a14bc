"""How numbers are written in the results page."""

from __future__ import annotations


def percent(mean: float, low: float, high: float) -> str:
    """A share with its interval, which the bootstrap may lead beyond what shares can be."""
    low, high = max(low, 0.0), min(high, 1.0)
    return f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)
