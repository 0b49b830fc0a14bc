"""Warnings where people look: what the pack logs while a node runs is shown on that node too.

A handler of the pack's own logger does it. So what is in the log and what is on the node cannot differ, and the layers
below nodes/ warn as ever, knowing nothing of nodes: what they say during sampling appears on the sampler. The browser
(web/js/notices.js) keeps them until the node runs again. ComfyUI's own text for nodes would be shown on whatever node
has the same number in the graph on screen, as Markdown, and never be taken off.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)
NAME = "fovea.notices"  # of the handler
EVENT = "fovea.notice"  # for the browser: workflow, job, node, lines


class Notices(logging.Handler):
    """Shows warnings as text on the node that is executing, all of one execution together.

    Without a server, a node that executes or a browser that asked for it, it does nothing.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.set_name(NAME)
        self._execution: tuple[str, str] | None = None  # job, node
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record.getMessage())
        except Exception:  # a message that cannot be shown must not end a run
            self.handleError(record)

    def _show(self, line: str) -> None:
        node, server = get_executing_context(), running_server()
        if node is None or server is None or server.client_id is None:
            return
        if (node.prompt_id, node.node_id) != self._execution:
            self._execution, self._lines = (node.prompt_id, node.node_id), []
        if line not in self._lines:
            self._lines.append(line)
            shown = _shown_node(node.node_id, server.last_node_id)
            send(server, server.client_id, _workflow_of(server, node.prompt_id), shown, self._lines, node.prompt_id)


def send(
    server: Any, client: str, workflow: str | None, node: str, lines: Sequence[str], job: str | None = None
) -> None:
    """Show lines on a node in a browser, in place of those before. job: what they are about; None: the graph that was
    queued last."""
    server.send_sync(EVENT, {"workflow": workflow, "job": job, "node": node, "lines": list(lines)}, client)


def workflow_id(extra_data: Mapping[str, Any]) -> str | None:
    """The id of the editor's workflow that a job was queued from, None for a job over the API."""
    return ((extra_data.get("extra_pnginfo") or {}).get("workflow") or {}).get("id")


def _workflow_of(server: Any, job: str) -> str | None:
    running, _ = server.prompt_queue.get_current_queue_volatile()
    return next((workflow_id(extra_data) for _, key, _, extra_data, *_ in running if key == job), None)


def _shown_node(node: str, last: str | None) -> str:
    """The node on screen for one that is executing: nodes that another made while it ran ("12.0.0.5") show on that."""
    return last if last and node.startswith(f"{last}.") else node


def install(pack: logging.Logger) -> None:
    """Show what this logger and those below it warn of; once is enough."""
    if all(handler.get_name() != NAME for handler in pack.handlers):
        pack.addHandler(Notices())


def report(node: str, notes: Sequence[str]) -> str:
    """A node's report, whose lines go into the log, and so onto the node, too."""
    for note in notes:
        logger.warning("%s: %s", node, note)
    return "\n".join(notes)


def running_server() -> Any:
    """ComfyUI's server, None where there is none. It is not imported: only a running ComfyUI has loaded it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
