"""What a node is run with outside of a graph: what is given, and for the rest what the node shows first."""

from __future__ import annotations

from typing import Any


def arguments(node: Any, **given: Any) -> dict[str, Any]:
    """Keyword arguments of a node's `execute`. Inputs that only an option of a combo has are given by their own names,
    as if they were the node's, and go where ComfyUI puts them. Names that the node does not have stay as they are."""
    from comfy_api.latest import io

    made: dict[str, Any] = {}
    for socket in node.define_schema().inputs:
        if isinstance(socket, io.DynamicCombo.Input):
            made[socket.id] = _option(socket, given)
        elif getattr(socket, "default", None) is not None:
            made[socket.id] = socket.default
        elif getattr(socket, "options", None):
            made[socket.id] = socket.options[0]
    return {**made, **given}


def _option(combo: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The chosen option, else the first that has all that is given, with its inputs, which are taken out of given."""
    own = {option.key: {each.id: each.default for each in option.inputs} for option in combo.options}
    wanted = given.keys() & set().union(*own.values())
    name = given.pop(combo.id, None) or next(key for key, inputs in own.items() if inputs.keys() >= wanted)
    return {combo.id: name, **{key: given.pop(key, usual) for key, usual in own.get(name, {}).items()}}
