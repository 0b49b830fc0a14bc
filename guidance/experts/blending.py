"""Several models mixed at one noise level: one to the functions that a sampler adds for a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

POST_CFG = "sampler_post_cfg_function"
PREDICTED = ("denoised", "cond_denoised", "uncond_denoised")  # what post-CFG functions get that models have made


@dataclass
class _Kept:
    """A post-CFG function that keeps what it is given."""

    args: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        self.args = args
        return args["denoised"]


def blended(
    shared: Sequence[tuple[int, float]], predict: Callable[[int, dict], Tensor], options: dict,
    known: Sequence[Callable], x: Tensor, sigma: Tensor,
) -> Tensor:  # fmt: skip
    """x0 of several models, mixed. shared: who, with which weight. predict: one model's x0 with these options. known:
    the run's own post-CFG functions.

    Functions that the sampler has added for this call see the mixture, once: those of CFG++ keep the negative prompt's
    x0 of the last call, which would be one model's.
    """
    functions = options.get(POST_CFG, ())
    added = [one for one in functions if not any(one is old for old in known)]
    if not added:
        return _mean([(weight, predict(who, options)) for who, weight in shared])
    left = [one for one in functions if not any(one is new for new in added)]
    told = []
    for who, weight in shared:
        kept = _Kept()
        denoised = predict(who, {**options, POST_CFG: [*left, kept]})
        told.append((weight, {**kept.args, "denoised": denoised}))
    args = {**told[0][1], "input": x, "sigma": sigma}
    args |= {name: _mean([(weight, each.get(name)) for weight, each in told]) for name in PREDICTED}
    if all("model" in each for _, each in told):  # else the guider asks for none
        for function in added:
            args = {**args, "denoised": function(args)}
    return args["denoised"]


def _mean(parts: Sequence[tuple[float, Any]]) -> Any:
    """Weighted; None where one of them is."""
    if any(value is None for _, value in parts):
        return None
    (weight, first), *others = parts
    total = weight * first
    for weight, value in others:
        total = total + weight * value
    return total
