"""The plot of what experts lose per noise level."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..plotting import label, pyplot, save

COLOURS = {"expert_high": "#c8553d", "expert_low": "#3a7ca5", "expert_control": "#8a8a8a", "expert_top": "#e6a23c"}
SAID = {
    "expert_high": "expert, high noise", "expert_low": "expert, low noise", "expert_control": "trained on, all noise",
    "expert_top": "expert, highest noise",
}  # fmt: skip


def losses(found: dict, path: Path) -> None:
    """Loss less the shipped model's, per tenth of the timesteps."""
    figure, axis = pyplot().subplots(figsize=(7, 3.4), dpi=90)
    edges = np.array(found["timesteps"])
    middle = (edges[:-1] + edges[1:]) / 2
    for k, (name, color) in enumerate(COLOURS.items()):
        if f"{name} less base" in found:
            values = 1e4 * np.array(found[f"{name} less base"])
            error = np.abs(values[:, 1:] - values[:, :1]).T
            axis.errorbar(middle + 8 * (k - 1.5), values[:, 0], error, color=color, label=SAID[name], capsize=2, lw=1)
    low = min(min(v[1] for v in values) for key, values in found.items() if key.endswith("control less base"))
    axis.set_ylim(1e4 * low * 2.5, -1e4 * low * 2)
    axis.axhline(0, color="black", lw=0.6)
    axis.axvline(660, color="black", lw=0.6, ls=":")
    label(axis, "timestep", "loss less the shipped model's, x 10,000")
    save(figure, path)
