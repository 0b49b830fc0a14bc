"""Further models that ComfyUI loads along with the sampled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def with_additional_models(cond: Mapping[str, Any], patchers: Sequence[Any]) -> dict[str, Any]:
    """A prompt's options that bring further models, which ComfyUI then loads for the run."""
    already = cond.get("additional_models", [])
    return {**cond, "additional_models": [*(already if isinstance(already, list) else [already]), *patchers]}


def patchers_of(*owners: Any) -> list[Any]:
    """The patchers of those scorers and saliency models that have networks."""
    return [owner.patcher for owner in owners if hasattr(owner, "patcher")]
