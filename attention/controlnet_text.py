"""ControlNets see a prompt without what a technique has put behind it, which is for the network's attention alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .conds import Conds

TEXT = "crossattn_controlnet"  # where ComfyUI's ControlNets look before they take the network's text


def for_controlnets(
    lists: Sequence[Conds | None], added: Callable[[int, Mapping[str, Any]], slice]
) -> Sequence[Conds | None]:
    """Cond lists with a text for their ControlNets; the same ones if no prompt has both a ControlNet and additions.

    added: which tokens of a prompt, of the list of this number, are additions. Prompts without any are given a text,
    too: ComfyUI batches those alone that bring the same along.
    """
    prompts = [(i, cond) for i, conds in enumerate(lists) for cond in conds or ()]
    if not any("control" in cond and _length(added(i, cond)) for i, cond in prompts):
        return lists
    return [None if conds is None else [_with_text(cond, added(i, cond)) for cond in conds]
            for i, conds in enumerate(lists)]  # fmt: skip


def _length(part: slice) -> int:
    return part.stop - part.start


def _with_text(cond: Mapping[str, Any], added: slice) -> Mapping[str, Any]:
    inputs = cond["model_conds"]
    text = inputs.get("c_crossattn")
    if "control" not in cond or text is None or TEXT in inputs:
        return cond
    own = torch.cat([text.cond[:, : added.start], text.cond[:, added.stop :]], dim=1)
    return {**cond, "model_conds": {**inputs, TEXT: type(text)(own)}}
