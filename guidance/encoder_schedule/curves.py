"""Text encoders weighted by noise level (eDiff-I's observation: CLIP counts early, T5 to the end), on plain tensors.

An encoder's weight moves the whole conditioning between the one with that encoder's prompt and the one with an empty
prompt in its place: weight 1 is the prompt, 0 is none, and in between lies what models know from prompt weighting. So
it is right for encoders whose tokens follow each other (SD3), lie side by side (SDXL) or only give a pooled vector
(Flux).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import token_spans

Curve = tuple[tuple[float, float], ...]  # (percent of the schedule as a fraction, weight), rising in percent

# CLIP full at first and fading, T5 kept: what the paper's figure of attention shows. No ablation of it is known.
PRESETS: dict[str, tuple[str, str]] = {
    "eDiff-I": ("0:1, 0.3:1, 1:0", "1"),
    "T5 first": ("0:0, 0.7:1, 1:1", "1"),
    "CLIP only": ("1", "0"),
    "T5 only": ("0", "1"),
    "both": ("1", "1"),
}
# HunyuanDiT's is a CLIP too, but its tokens are BERT's, in which no phrase can be told.
CLIP_ENCODERS = (*token_spans.CLIP_ENCODERS, "hydit_clip")
GUIDED = frozenset({"l", "t5xxl"})  # Flux's encoders: of others, HunyuanVideo has built-in guidance on its own scale
MAX_POINTS, MAX_WEIGHT = 64, 10.0


def parse_curve(text: str, name: str) -> Curve:
    """A weight, or points such as "0:1, 0.3:1, 1:0". Raises ValueError that names the cure."""
    points = []
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        place, _, value = part.rpartition(":")
        try:
            points.append((float(place) if place else 0.0, float(value)))
        except ValueError:
            raise ValueError(f"{name}: {part!r} is no point. Write place:weight, such as: 0:1, 0.3:1, 1:0") from None
    if not points or len(points) > MAX_POINTS or (len(points) > 1 and not all(":" in part for part in parts)):
        raise ValueError(f"{name}: write one weight, or 2 to {MAX_POINTS} points such as: 0:1, 0.3:1, 1:0")
    for percent, weight in points:
        if not 0 <= percent <= 1 or not abs(weight) <= MAX_WEIGHT:
            raise ValueError(
                f"{name}: {percent:g}:{weight:g} is out of range; places go from 0 to 1, weights to {MAX_WEIGHT:g}."
            )
    if any(later[0] <= earlier[0] for earlier, later in zip(points, points[1:])):
        raise ValueError(f"{name}: each point needs a later place than the one before.")
    return tuple(points)


def weight_at(curve: Curve, percent: float) -> float:
    """The weight at a place of the schedule: straight lines between points, constant beyond them."""
    places = [place for place, _ in curve]
    at = bisect.bisect_right(places, percent)
    if at == 0 or at == len(curve):
        return curve[0 if at == 0 else -1][1]
    (left, low), (right, high) = curve[at - 1], curve[at]
    return low + (high - low) * (percent - left) / (right - left)


def pieces(
    curves: Sequence[Curve], count: int, first: float = 0.0, last: float = 1.0
) -> list[tuple[float, float, tuple[float, ...]]]:
    """The schedule from `first` to `last` in segments of constant weights: (start, end, weights). Neighbors with the
    same weights are one segment.

    Borders lie where schedules rarely have a step: in ComfyUI both parts at a border act there, and cost twice.
    """
    if all(len({weight for _, weight in curve}) == 1 for curve in curves):
        return [(first, last, tuple(curve[0][1] for curve in curves))]
    inner = ((at + 0.1180) / count for at in range(1, count))
    borders = [first, *(border for border in inner if first < border < last), last]
    segments: list[tuple[float, float, tuple[float, ...]]] = []
    for start, end in zip(borders, borders[1:]):
        weights = tuple(round(weight_at(curve, (start + end) / 2), 6) for curve in curves)
        if segments and segments[-1][2] == weights:
            segments[-1] = (segments[-1][0], end, weights)
        else:
            segments.append((start, end, weights))
    return segments


def stretched(features: Tensor, tokens: int) -> Tensor:
    """An empty prompt's features [..., tokens, width], as long as a longer prompt's: the last token again."""
    missing = tokens - features.shape[-2]
    if missing <= 0:
        return features[..., :tokens, :]
    return torch.cat([features, features[..., -1:, :].expand(*[-1] * (features.ndim - 2), missing, -1)], dim=-2)


def weighed(whole: Any, without: Sequence[Any], weights: Sequence[float]) -> Any:
    """whole - sum (1 - weight) (whole - without), for tensors; what is no tensor of numbers stays as it is.

    without: the same value once for each encoder, with an empty prompt for that encoder alone.
    """
    if not isinstance(whole, Tensor) or not whole.is_floating_point():
        return whole
    out = whole
    for other, weight in zip(without, weights):
        if weight != 1 and isinstance(other, Tensor):
            fitting = stretched(other, whole.shape[-2]) if whole.ndim > 2 else other
            out = out - (1 - weight) * (whole - fitting)
    return out


def weighed_entry(whole: tuple[Tensor, Mapping[str, Any]], without: Sequence[tuple[Tensor, Mapping[str, Any]]],
                  weights: Sequence[float]) -> list:  # fmt: skip
    """One entry of a CONDITIONING: features and everything beside them."""
    features, more = whole
    beside = {key: weighed(value, [other[1].get(key) for other in without], weights) for key, value in more.items()}
    return [weighed(features, [other[0] for other in without], weights), beside]
