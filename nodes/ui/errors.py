"""Errors that say which node they are of: in a big graph, "Unknown block" alone helps nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def of_node(name: str) -> Iterator[None]:
    """The text of a ValueError or RuntimeError from inside begins with the node's name, unless it does already. Its
    class and its traceback stay. Also a decorator, which every node's `execute` has."""
    try:
        yield
    except (ValueError, RuntimeError) as why:
        if not str(why).startswith(f"{name}:"):
            why.args = (f"{name}: {why}",)
        raise


def needs_clip(clip: Any) -> None:
    """Raise ValueError for the CLIP of a checkpoint that has none: loaders give None then."""
    if clip is None:
        raise ValueError("clip is empty. Connect the CLIP of a checkpoint that has a text encoder.")
