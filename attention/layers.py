"""Changes to what the layers of a network give, for the length of one call of the network.

A change is a forward hook of PyTorch's, put on the module for one call of the network and taken off when it ends, also
after an error or a cancel. So a plain clone of the model never meets one, and whatever else is in a layer's own forward
(quantized or streamed weights, another LoRA) stays as it is. Where gradients are taken, no part of such a call may be
computed again on the way back: other calls' hooks, or none, would be there by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from .families.registry import Family
from .run import Layer, LayerChange
from .sites import Forward


@contextmanager
def changed_layers(changes: Sequence[LayerChange], family: Family, forward: Forward) -> Iterator[None]:
    """While active, the network's layers give what these make of their values."""
    network: nn.Module = forward.network
    modules = dict(network.named_modules())
    with ExitStack() as hooks:
        for module in family.checkpointed(network):
            hooks.enter_context(module.register_forward_pre_hook(_once, with_kwargs=True))
        for module in family.announcing(network):
            announce = partial(_announce, family, forward)
            hooks.enter_context(module.register_forward_pre_hook(announce, with_kwargs=True))
        for change in changes:
            for name in change.layers:
                module = modules.get(name) or network.get_submodule(name)  # within a compiled block
                changed = partial(_change, change, name, family, forward)
                hooks.enter_context(module.register_forward_hook(changed))
        yield


def _once(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict]:
    """As ComfyUI calls these blocks itself where no node replaces them."""
    return args, {**kwargs, "use_checkpoint": False}


def _announce(
    family: Family, forward: Forward, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    family.announce(forward, module, args, kwargs)


def _change(
    change: LayerChange, name: str, family: Family, forward: Forward, module: nn.Module, args: tuple[Any, ...],
    output: Any,
) -> Any:  # fmt: skip
    """A forward hook: what it returns takes the output's place; None leaves it."""
    if not args or not isinstance(output, Tensor):
        return None
    tokens = family.layer_tokens(forward, name, tuple(output.shape))
    return change.changed(Layer(name, module, tokens, family.pictures(forward, len(output))), args[0], output)
