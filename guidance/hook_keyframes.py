"""Keyframes of hooks, ComfyUI's strengths of LoRAs that change on the way: where a run that is not the first one, or
that comes in late, has them. ComfyUI sets them back once per run, and from there they only go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

TOLERANCE = 1e-4  # of a noise level, which may have been converted


def keyframed(conds: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Hooks of these conds whose strength changes on the way, one of each set of keyframes."""
    found: dict[int, Any] = {}
    for cond in conds:
        group = cond.get("hooks")
        for hook in () if group is None else group.hooks:
            if len(hook.hook_keyframe.keyframes) > 1:
                found[id(hook.hook_keyframe)] = hook
    return [*found.values()]


def own_keyframes(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """These cond lists with copies of all keyframes, which another model's steps do not move. Hooks stay the same."""
    shared = {id(group): group for listed in conds.values() for cond in listed if (group := cond.get("hooks"))}
    groups = {key: group.clone() for key, group in shared.items()}
    copies: dict[int, Any] = {}
    for hook in (hook for group in groups.values() for hook in group.hooks):
        hook.hook_keyframe = copies.setdefault(id(hook.hook_keyframe), hook.hook_keyframe.clone())
    # Conds of one group keep one: ComfyUI evaluates them together.
    return {name: [{**cond, "hooks": groups[id(cond["hooks"])]} if cond.get("hooks") else dict(cond) for cond in listed]
            for name, listed in conds.items()}  # fmt: skip


def set_to_level(hooks: Sequence[Any], sigmas: Tensor, sigma: Tensor, patchers: Iterable[Any]) -> None:
    """Set keyframes to where a run along this schedule has them at a noise level. patchers: of the models, which forget
    weights of other strengths."""
    changed = False
    for hook in hooks:
        keyframes = hook.hook_keyframe
        before = keyframes.strength
        keyframes.reset()
        keyframes._curr_t = -1.0  # which reset leaves as it was
        for level in (*sigmas[sigmas > sigma * (1 + TOLERANCE)], sigma):
            keyframes.prepare_current_keyframe(level, {"sample_sigmas": sigmas})
        changed |= keyframes.strength != before
    for patcher in patchers if changed else ():
        patcher.clear_cached_hook_weights()
        patcher.patch_hooks(None)
