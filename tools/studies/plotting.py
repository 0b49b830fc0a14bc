"""What the plots share: a pyplot without a screen, axes of one size of text, pictures without ticks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..comfy.host import ROOT

IMAGES = ROOT / "docs" / "images"
BLUE, PALE = "#3a7ca5", "#b9c6cf"  # bars: what is ours, and the rest


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def label(axis: Any, x: str, y: str | None = None, legend: bool = True) -> None:
    axis.set_xlabel(x, fontsize=8)
    if y:
        axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=8)
    if legend:
        axis.legend(fontsize=8)


def picture(axis: Any, shown: np.ndarray) -> None:
    axis.imshow(shown)
    axis.set_xticks([])
    axis.set_yticks([])


def bars(axis: Any, names: Sequence[str], values: np.ndarray, ours: Sequence[str], title: str) -> None:
    """A bar per name, with its interval. values: [names, 3], mean and both ends."""
    ends = np.abs(values[:, 1:] - values[:, :1]).T
    axis.barh(names, values[:, 0], xerr=ends, color=[BLUE if name in ours else PALE for name in names])
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=8)


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(pad=0.4)
    figure.savefig(path)
    pyplot().close(figure)
