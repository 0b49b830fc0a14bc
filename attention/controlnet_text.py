"""ControlNets see a prompt without what a technique has put behind it, which is for the network's attention alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .conds import Conds

TEXT = "crossattn_controlnet"  # where ComfyUI's ControlNets look before they take the network's text


def for_controlnets(
    lists: Sequence[Conds | None], own_text: Callable[[Mapping[str, Any]], int | None]
) -> Sequence[Conds | None]:
    """Cond lists with a text for their ControlNets; the same ones if no prompt has both a ControlNet and additions.

    own_text: how many tokens of a prompt are its own, None for all. Prompts without additions are given theirs, too:
    ComfyUI batches those alone that bring the same along.
    """
    prompts = [cond for conds in lists for cond in conds or ()]
    if not any("control" in cond and own_text(cond) is not None for cond in prompts):
        return lists
    return [None if conds is None else [_with_text(cond, own_text(cond)) for cond in conds] for conds in lists]


def _with_text(cond: Mapping[str, Any], own: int | None) -> Mapping[str, Any]:
    inputs = cond["model_conds"]
    text = inputs.get("c_crossattn")
    if "control" not in cond or text is None or TEXT in inputs:
        return cond
    return {**cond, "model_conds": {**inputs, TEXT: type(text)(text.cond[:, :own])}}
