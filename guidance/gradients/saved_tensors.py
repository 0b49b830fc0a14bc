"""What autograd keeps for the way back, kept safe from networks that overwrite it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def clone_saved_tensors(networks: Iterable[nn.Module]) -> Callable[[], contextlib.AbstractContextManager]:
    """What makes a context, inside of which autograd keeps copies of all but these networks' weights.

    Not torch's allow_mutation_on_saved_tensors: it tells tensors apart by address and version, which come again.
    """
    weights = {p.untyped_storage().data_ptr() for network in networks for p in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in weights else tensor.clone()

    return lambda: torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
