"""Warnings where people look: what the pack logs while a node runs is shown on that node too.

A handler of the pack's own logger does it. So what is in the log and what is on the node cannot differ, and the layers
below nodes/ warn as ever, knowing nothing of nodes: what they say during sampling appears on the sampler.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)
NAME = "fovea.notices"  # of the handler
MARK = "\u26a0"  # a warning sign; web/js/notices.js knows our texts by it


class Notices(logging.Handler):
    """Shows warnings as text on the node that is executing, all of one execution together.

    Without a server, a node that executes or a browser that asked for it, it does nothing.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.set_name(NAME)
        self._execution: tuple[str, str] | None = None  # prompt, node
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record.getMessage())
        except Exception:  # a message that cannot be shown must not end a run
            self.handleError(record)

    def _show(self, message: str) -> None:
        node, server = get_executing_context(), _server()
        if node is None or server is None or server.client_id is None:
            return
        if (node.prompt_id, node.node_id) != self._execution:
            self._execution, self._lines = (node.prompt_id, node.node_id), []
        line = f"{MARK} {message}"
        if line not in self._lines:
            self._lines.append(line)
            server.send_progress_text("\n".join(self._lines), node.node_id, sid=server.client_id)


def install(pack: logging.Logger) -> None:
    """Show what this logger and those below it warn of; once is enough."""
    if all(handler.get_name() != NAME for handler in pack.handlers):
        pack.addHandler(Notices())


def report(node: str, notes: Sequence[str]) -> str:
    """A node's report, whose lines go into the log, and so onto the node, too."""
    for note in notes:
        logger.warning("%s: %s", node, note)
    return "\n".join(notes)


def _server() -> Any:
    """ComfyUI's server, None where there is none. It is not imported: only a running ComfyUI has loaded it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
