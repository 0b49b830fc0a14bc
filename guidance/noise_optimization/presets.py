"""The papers' methods as settings of one search by gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..crops import RESIZE


@dataclass(frozen=True)
class Preset:
    """candidates: starting noises tried first. iterations: changes of the best of them. learning_rate: a factor on the
    rule's own. The rest is as in `OptimizationConfig` and `SalientLoss`."""

    candidates: int = 8
    iterations: int = 20
    learning_rate: float = 1.0
    update_rule: str = "spherical"
    gradient_path: str = "past_model"
    backprop_steps: int = 1
    salient_weight: float = 0.0
    salient_views: str = "cutouts"
    saliency_interval: int = 1
    cutouts: int = 0
    view_resize: str = RESIZE[0]
    mode: str = "checkpoint"


_DOODL = Preset(candidates=1, iterations=50, update_rule="doodl", gradient_path="all_steps")
PRESETS = {
    "default": Preset(),
    "SGOOL": replace(_DOODL, salient_weight=0.5, salient_views="crops"),
    "DOODL": _DOODL,
    "ReNO": replace(_DOODL, update_rule="reno"),
    "custom": Preset(),
}
