"""Memory that did not suffice, as devices put it."""

from __future__ import annotations

import torch


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says so: some devices raise their own kind."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
