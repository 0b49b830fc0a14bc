"""Further models that ComfyUI loads along with the sampled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def with_additional_models(cond: Mapping[str, Any], patchers: Sequence[Any]) -> dict[str, Any]:
    """A prompt's options that bring further models, which ComfyUI then loads for the run."""
    return {**cond, "additional_models": [*additional_models(cond), *patchers]} if patchers else dict(cond)


def all_with_additional_models(
    conds: Mapping[str, Sequence[Mapping[str, Any]] | None], patchers: Sequence[Any]
) -> dict[str, list[dict[str, Any]]]:
    """The lists of prompts that a guider has, each prompt bringing further models."""
    return {name: [with_additional_models(cond, patchers) for cond in listed or ()] for name, listed in conds.items()}


def additional_models(cond: Mapping[str, Any]) -> list[Any]:
    """The further models that a prompt's options bring."""
    brought = cond.get("additional_models", [])
    return brought if isinstance(brought, list) else [brought]


def patchers_of(*owners: Any) -> list[Any]:
    """The patchers of those scorers and saliency models that have networks."""
    return [owner.patcher for owner in owners if hasattr(owner, "patcher")]
