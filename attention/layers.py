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

from .conds import Row
from .families.registry import Family
from .run import LayerCall, LayerChanger, Run
from .sites import Forward


@contextmanager
def changed_layers(
    changers: Sequence[LayerChanger], run: Run, rows: tuple[Row, ...], family: Family, forward: Forward
) -> Iterator[None]:
    """While active, the network's layers give what these make of their values.

    Where gradients are taken the hooks stay until the network's next call or the end of the run: ComfyUI runs parts of
    some networks anew on the way back.
    """
    network: nn.Module = forward.network
    run.drop_layer_hooks(network)
    with _kept(run, network) as hooks:
        for module in family.announcing(network):
            hooks.append(module.register_forward_pre_hook(partial(_announce, family, forward), with_kwargs=True))
        for changer in changers:
            for name in changer.layers:
                change = partial(_change, changer, name, run, rows, family, forward)
                hooks.append(network.get_submodule(name).register_forward_hook(change))
        yield


@contextmanager
def _kept(run: Run, network: nn.Module) -> Iterator[list]:
    hooks = run.layer_hooks(network)
    try:
        yield hooks
    finally:
        if not torch.is_grad_enabled():
            run.drop_layer_hooks(network)


def _announce(
    family: Family, forward: Forward, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    family.announce(forward, module, args, kwargs)


def _change(
    changer: LayerChanger, name: str, run: Run, rows: tuple[Row, ...], family: Family, forward: Forward,
    module: nn.Module, args: tuple[Any, ...], output: Any,
) -> Any:  # fmt: skip
    """A forward hook: what it returns takes the output's place; None leaves it."""
    if not args or not isinstance(output, Tensor):
        return None
    tokens = family.layer_tokens(forward, name, tuple(output.shape))
    return changer.changed(LayerCall(name, module, tokens, rows, run, forward), args[0], output)
