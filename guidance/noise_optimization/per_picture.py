"""Inputs of a run that are for several pictures: masks and prompts in a batch, ControlNet's hints, masks of nodes.

ComfyUI repeats them over the pictures of a batch, from the first one on, and leaves out what is too many. In a batch of
candidates [n, places] each gets what it has alone only where their number divides that of the places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from ...attention import hooks
from ..cond_inputs import further_inputs

MASKS = ("mask", "canvas")  # what masks are called in the pack's own prompts and techniques: [n, ..., height, width]
TEXTS = ("cross_attn", "pooled_output")


def numbers_of_pictures(
    conds: Iterable[Mapping[str, Any]], options: Iterable[Mapping[str, Any]], video: bool = False
) -> set[int]:
    """How many pictures the inputs of a run are for, 1 left out. conds: cond dicts, encoded by the model or not yet;
    options: of the sampled models. video: whether latents have several frames, whose masks are the frames'."""
    found: set[int] = set()
    for cond in conds:
        found |= {*_of_prompt(cond, video)}
    for each in () if video else options:
        found |= {*_of_masks(each.get("transformer_options", {}).get(hooks.TECHNIQUES, ()))}
    return found - {0, 1}


def _of_prompt(cond: Mapping[str, Any], video: bool) -> Iterator[int]:
    encoded = cond.get("model_conds")
    if encoded is None:
        inputs = {**further_inputs(cond), **{name: cond.get(name) for name in TEXTS}}
        yield from _of_tensors([*inputs.values()])
    else:  # what is the same for all pictures has size [1]
        yield from _of_tensors([each.cond for each in encoded.values() if list(each.size()) != [1]])
    if not video:
        yield from _of_tensors(cond.get("mask"))
        yield from _of_masks([value for name, value in cond.items() if name.startswith("fovea_")])
    control = cond.get("control")
    while control is not None:  # hints as they were given, not those made for the last batch
        yield from _of_tensors([value for name, value in vars(control).items() if "orig" in name])
        control = control.previous_controlnet


def _of_tensors(value: Any) -> Iterator[int]:
    """The lengths of a tensor, or of those in lists."""
    if isinstance(value, Tensor) and value.ndim:
        yield len(value)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _of_tensors(each)


def _of_masks(value: Any) -> Iterator[int]:
    """Of all masks in nested settings."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _of_masks(each)
    elif is_dataclass(value):
        for field in fields(value):
            inner = getattr(value, field.name)
            if field.name in MASKS and isinstance(inner, Tensor):
                yield len(inner) if inner.ndim > 2 else 1
            else:
                yield from _of_masks(inner)
