"""Networks that torch.compile has traced.

ComfyUI's TorchCompileModel drops the guards on `transformer_options`, so a trace serves every later call, whatever the
options hold then: hooks that were traced stay, hooks that come later are never called, and keys that were there must be
there. So a call with hooks goes past the compiled code, and a call without shows it no key of ours.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_lock = threading.Lock()
_inside = 0
_eager = contextlib.ExitStack()  # of all threads together: the stance is the process's, not a thread's


class CannotRunUncompiled(RuntimeError):
    """The compiled network cannot be passed by; the message names the cure."""


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, everything that torch.compile made runs as the Python it was made from: a whole network or its blocks.

    What is compiled already stays so and is used again afterwards. Threads may nest and overlap; the last one to leave
    lets compiled code run again. Raises CannotRunUncompiled with PyTorch before 2.6.
    """
    global _inside
    if not _compiler_in_use():
        yield
        return
    if not hasattr(torch.compiler, "set_stance"):
        raise CannotRunUncompiled(
            "This model is compiled, and PyTorch before 2.6 cannot run it uncompiled where Fovea reads or changes "
            "attention. Update PyTorch, or remove the node that compiles the model."
        )
    with _lock:
        _inside += 1
        if _inside == 1:
            _eager.enter_context(torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _eager.close()


def is_compiled(network: nn.Module, wrappers: Mapping[str, Any]) -> bool:
    """Whether a network or a part of it is compiled, or will be by the time it is called.

    wrappers: those around the call by their keys; ComfyUI's own exchanges modules for compiled ones there.
    """
    if not _compiler_in_use():
        return False
    return "torch.compile" in wrappers or any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in network.modules()
    )


def original(module: Any) -> Any:
    """The module that a compiled one was made from; any other as it is."""
    return getattr(module, "_orig_mod", module)


def _compiler_in_use() -> bool:
    return "torch._dynamo" in sys.modules  # which takes a second to import, and nothing is compiled without it
