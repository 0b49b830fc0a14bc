"""A small client for ComfyUI's HTTP and websocket API: queue a graph, follow it, fetch its images."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
import websocket

from .graph import Graph

Progress = Callable[[str, int, int], None]  # node id, steps done, steps in all
# What calls raise when the server is gone or does not answer.
LOST = (OSError, TimeoutError, requests.RequestException, websocket.WebSocketException)
FINAL = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}
REMOVED = "removed from the server's queue"
STARTS = ("waiting", "execution_start")  # what sets the clock of a prompt back
LIMIT = 1800.0  # seconds that a prompt may run
QUIET, PAUSE = 30.0, 1.0  # seconds without a message, after which the server is asked; between questions without any
NOTICE = "fovea.notice"  # nodes/ui/notices.py


def describe(node_errors: dict[str, Any]) -> str:
    """The server's account of invalid nodes in one line: which node, what, which input."""
    return "; ".join(
        f"{node.get('class_type')} (node {node_id}): {error.get('message')}: {error.get('details')}"
        for node_id, node in node_errors.items()
        for error in node.get("errors", [])
    )


class TooSlow(TimeoutError):
    """A prompt ran longer than it may; the server is there and has stopped it."""


class Refused(Exception):
    """The server did not accept a graph; `node_errors` is its account of what is wrong with which node and input."""

    def __init__(self, status: int, body: dict[str, Any]):
        self.status, self.body = status, body
        self.node_errors: dict[str, Any] = body.get("node_errors") or {}
        super().__init__(self.describe())

    def describe(self) -> str:
        error = self.body.get("error") or {}
        return describe(self.node_errors) or f"{error.get('message', self.body)} {error.get('details') or ''}".strip()


@dataclass
class Run:
    """What became of one queued graph."""

    prompt_id: str
    status: str = "unknown"  # success, partial (some outputs were invalid and left out), error, interrupted or REMOVED
    seconds: float = 0.0
    cached: list[str] = field(default_factory=list)  # ids of nodes taken from the server's cache
    error: dict[str, Any] | None = None  # the server's execution_error message
    node_errors: dict[str, Any] = field(default_factory=dict)  # outputs the server left out because of invalid nodes
    outputs: dict[str, Any] = field(default_factory=dict)  # node id -> what /history tells of it
    notices: dict[str, list[str]] = field(default_factory=dict)  # node id -> what the pack warned of on it

    def images(self, node_id: str) -> list[dict[str, str]]:
        return self.outputs.get(node_id, {}).get("images", [])

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """Note what a message of the server says of it."""
        if kind == "execution_cached":
            self.cached = list(data.get("nodes", []))
        elif kind == NOTICE:
            for line in data["lines"]:
                if line not in self.notices.setdefault(data["node"], []):
                    self.notices[data["node"]].append(line)
        elif kind in FINAL:
            self.status = "partial" if self.node_errors and FINAL[kind] == "success" else FINAL[kind]
            self.error = data if kind == "execution_error" else None

    def explain(self) -> str:
        """One line for people: which node failed and why."""
        if self.error is None:
            return describe(self.node_errors) or self.status
        told = self.error
        return f"{told.get('node_type')} (node {told.get('node_id')}): {told.get('exception_message')}"


class Client:
    """Speaks to one server. Every call has a time limit; only others' prompts are waited for, however long."""

    def __init__(self, address: str, timeout: float = 60.0):
        self.address, self.timeout = address.rstrip("/"), timeout
        self.id = uuid.uuid4().hex
        self.session = requests.Session()
        self.session.trust_env = False  # the server is on this machine: no proxy in between

    def get(self, path: str, **query: str) -> requests.Response:
        reply = self.session.get(self.address + path, params=query, timeout=self.timeout)
        reply.raise_for_status()
        return reply

    def json(self, path: str, **query: str) -> Any:
        return self.get(path, **query).json()

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        return self.session.post(self.address + path, json=body, timeout=self.timeout)

    def queue(self, graph: Graph) -> Run:
        """Queue an API-format graph. Raises Refused where the server finds nothing in it that it could run."""
        reply = self.post("/prompt", {"prompt": graph, "client_id": self.id})
        if reply.status_code != 200:
            raise Refused(reply.status_code, reply.json())
        return Run(reply.json()["prompt_id"], node_errors=reply.json().get("node_errors") or {})

    def interrupt(self) -> None:
        self.post("/interrupt", {}).raise_for_status()

    def forget(self) -> None:
        """Have the server throw away models and results: the next run begins with loading."""
        self.post("/free", {"unload_models": True, "free_memory": True}).raise_for_status()

    def drop(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or interrupt it where it runs."""
        with contextlib.suppress(requests.RequestException):
            self.post("/queue", {"delete": [prompt_id]})
            self.post("/interrupt", {"prompt_id": prompt_id})

    def image(self, reference: dict[str, str]) -> bytes:
        """The file that an entry of Run.images stands for."""
        return self.get("/view", **{key: reference[key] for key in ("filename", "subfolder", "type")}).content

    def run(self, graph: Graph, progress: Progress | None = None, limit: float = LIMIT) -> Run:
        """Queue a graph and follow it to its end. Raises Refused for an invalid graph, TooSlow where it runs for more
        than `limit` s (waiting for others is not counted), and one of LOST where the server is gone."""
        address = self.address.replace("http", "ws", 1) + f"/ws?clientId={self.id}"
        socket = websocket.create_connection(address, timeout=self.timeout, http_no_proxy=["*"])
        try:
            started = time.monotonic()
            run = self.queue(graph)
            try:
                self._follow(socket, run, progress, limit)
            except BaseException:  # whatever it is, Ctrl-C and SIGTERM too: nobody waits for the prompt any more
                self.drop(run.prompt_id)
                raise
            run.seconds = time.monotonic() - started
        finally:
            socket.close()
        if run.status != REMOVED:
            run.outputs = self.history(run.prompt_id).get("outputs", {})
        return run

    def _follow(self, socket: websocket.WebSocket, run: Run, progress: Progress | None, limit: float) -> None:
        """Read messages until one of them ends this prompt, and ask the server where none come."""
        quiet = min(QUIET, limit / 3)  # so that a prompt that waits is known to wait before its time is up
        socket.settimeout(quiet)
        began = heard = time.monotonic()
        stopped = False
        while run.status == "unknown":
            kind = self._read(socket, run, progress)
            if not kind and (not socket.connected or time.monotonic() - heard >= quiet):
                kind = self._ask(run)
            now = time.monotonic()
            heard = now if kind else heard
            began = now if kind in STARTS else began
            if run.status == "unknown" and now - began > limit:
                if stopped:
                    raise TimeoutError(f"prompt {run.prompt_id} was interrupted and did not stop")
                self.drop(run.prompt_id)
                began, stopped = now, True
        if stopped and run.status in ("interrupted", REMOVED):
            raise TooSlow(f"it ran longer than {limit / 60:g} min")

    def _read(self, socket: websocket.WebSocket, run: Run, progress: Progress | None) -> str:
        """Take in the next message. -> its kind if it is about this prompt, else nothing."""
        try:
            message = socket.recv()
        except websocket.WebSocketTimeoutException:
            return ""  # a long step says nothing
        except (OSError, websocket.WebSocketException):
            socket.shutdown()  # only the connection is lost, perhaps: from now on the server is asked
            time.sleep(PAUSE)
            return ""
        if isinstance(message, bytes):
            return ""  # a preview
        event = json.loads(message) if message else {}
        kind, data = str(event.get("type")), event.get("data") or {}
        if kind == NOTICE and data["job"] in (None, run.prompt_id):  # None: of the graph that was queued last
            run.hear(kind, data)
        if data.get("prompt_id") != run.prompt_id:
            return ""
        run.hear(kind, data)
        if kind == "progress" and progress is not None:
            progress(str(data.get("node")), int(data["value"]), int(data["max"]))
        return kind

    def _ask(self, run: Run) -> str:
        """Look up what became of a prompt: messages may be lost, and none tells that it was taken out of the queue.
        -> "waiting" for others, "running", "ended"; nothing where the server is too busy to say."""
        try:
            queue = self.json("/queue")  # first: what leaves it is in the history at once
            if any(item[1] == run.prompt_id for item in queue["queue_pending"]):
                return "waiting"
            if any(item[1] == run.prompt_id for item in queue["queue_running"]):
                return "running"
            entry = self.history(run.prompt_id, patience=0)
        except requests.ReadTimeout:
            return ""
        for kind, data in (entry.get("status") or {}).get("messages", []):
            run.hear(kind, data)
        if run.status == "unknown":
            run.status = REMOVED
        return "ended"

    def history(self, prompt_id: str, patience: float = 10.0) -> dict[str, Any]:
        """The history entry, which the server writes a moment after it reports the end."""
        deadline = time.monotonic() + patience
        while True:
            entry = self.json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None or time.monotonic() > deadline:
                return entry or {}
            time.sleep(0.05)
