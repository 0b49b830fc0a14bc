"""Errors that say which node they are of: in a big graph, "Unknown block" alone helps nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def of_node(name: str) -> Iterator[None]:
    """What is raised inside, by intent, begins with the node's name unless it names it. Also a decorator."""
    try:
        yield
    except (ValueError, RuntimeError) as why:
        if name not in str(why):
            why.args = (f"{name}: {why}",)
        raise
