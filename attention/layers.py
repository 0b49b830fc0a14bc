"""Changes to what the layers of a network give, for the length of one call of the network.

A change is a forward hook of PyTorch's, put on the module for one call of the network and taken off when it ends, also
after an error or a cancel. So a plain clone of the model never meets one, and whatever else is in a layer's own forward
(quantized or streamed weights, another LoRA) stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .families.registry import Family
from .run import Layer, LayerChange, Run
from .sites import Forward


@contextmanager
def changed_layers(changes: Sequence[LayerChange], run: Run, family: Family, forward: Forward) -> Iterator[None]:
    """While active, the network's layers give what these make of their values.

    Where gradients are taken the hooks stay until the network's next call or the end of the run: ComfyUI runs parts of
    some networks anew on the way back.
    """
    network: nn.Module = forward.network
    run.drop_layer_hooks(network)
    try:
        hooks, modules = run.layer_hooks(network), dict(network.named_modules())
        for module in family.announcing(network):
            hooks.append(module.register_forward_pre_hook(partial(_announce, family, forward), with_kwargs=True))
        for change in changes:
            for name in change.layers:
                module = modules.get(name) or network.get_submodule(name)  # within a compiled block
                hooks.append(module.register_forward_hook(partial(_change, change, name, family, forward)))
        yield
    finally:
        if not torch.is_grad_enabled():
            run.drop_layer_hooks(network)


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
    return change.changed(Layer(name, module, tokens), args[0], output)
