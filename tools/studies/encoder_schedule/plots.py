"""Plots of who is attended to, and of when the prompt acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..plotting import label, pyplot, save
from . import prompt_swap
from .quality import GROUPS


def attended(found: dict, path: Path) -> None:
    figure, axis = pyplot().subplots(figsize=(6.5, 3), dpi=90)
    at = np.linspace(0, 100, len(found["sigma"]))
    for name, color in zip(GROUPS, ("#c8553d", "#e9b7ac", "#3a7ca5", "#aecbdc")):
        axis.plot(at, 100 * np.array(found[name]), color=color, label=name)
    axis.set_ylim(0)
    label(axis, "percent of the schedule", "share of attention, %")
    save(figure, path)


def swap(found: dict, folder: Path, path: Path) -> None:
    figure, (top, bottom) = pyplot().subplots(2, 1, figsize=(8, 4.2), dpi=90, height_ratios=(2.4, 1))
    at = 100 * np.array(found["swaps"]) / found["steps"]
    top.plot(at, 100 * np.array(found["first"]), color="#3a7ca5", label="objects of the first prompt")
    top.plot(at, 100 * np.array(found["second"]), color="#c8553d", label="objects of the second")
    far = np.array(found["far"])
    top.plot(at, 100 * far / far.max(), color="#8a8a8a", ls=":", label="distance from the first prompt's picture")
    label(top, "steps with the first prompt, %")
    bottom.imshow(prompt_swap.strip(folder))
    bottom.set_xticks(128 + 256 * np.arange(len(at)), [f"{x:.0f} %" for x in at], fontsize=7)
    bottom.set_yticks([])
    save(figure, path)
