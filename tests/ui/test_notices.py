"""Warnings on nodes: what the pack logs while a node executes is sent to the browser that asked for the run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models as tiny
from comfy_execution.utils import CurrentNodeContext
from sag_steps import guided

from fovea.nodes.ui import notices

PACK = logging.getLogger("fovea")


class Server:
    """Stands for ComfyUI's, which would need a socket and a browser: keeps what is sent."""

    def __init__(self) -> None:
        self.client_id: str | None = "browser"
        self.last_node_id: str | None = None
        extra_data = {"extra_pnginfo": {"workflow": {"id": "of the editor"}}}
        self.running: list[tuple] = [(0, "prompt", {}, extra_data, [], {})]
        self.prompt_queue = self
        self.sent: list[tuple[str, dict[str, Any], str | None]] = []

    def get_current_queue_volatile(self) -> tuple[list[tuple], list[tuple]]:
        return self.running, []

    def send_sync(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        self.sent.append((event, data, sid))

    @property
    def texts(self) -> dict[str, list[str]]:
        """What each node shows at last."""
        return {data["node"]: data["lines"] for _, data, _ in self.sent}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server to send to, and the pack's logger as it is in ComfyUI."""
    made = Server()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=made)))
    before = list(PACK.handlers)
    notices.install(PACK)
    yield made
    PACK.handlers[:] = before


def warn(text: str) -> None:
    logging.getLogger("fovea.guidance.anything").warning(text)


def test_all_warnings_of_one_execution_are_on_its_node(server: Server) -> None:
    with CurrentNodeContext("prompt", "3"):
        warn("first")
        warn("second")
        warn("first")
        logging.getLogger("fovea.guidance.anything").info("no warning")
        logging.getLogger("another_pack").warning("not ours")
    assert server.texts == {"3": ["first", "second"]}
    assert {(event, sid) for event, _, sid in server.sent} == {(notices.EVENT, "browser")}
    assert {(data["workflow"], data["job"]) for _, data, _ in server.sent} == {("of the editor", "prompt")}
    with CurrentNodeContext("prompt", "4"):
        warn("third")
    with CurrentNodeContext("another prompt", "3"):
        warn("fourth")
    assert server.texts == {"4": ["third"], "3": ["fourth"]}
    assert server.sent[-1][1]["workflow"] is None, "a job over the API has none"


def test_nodes_that_a_node_made_show_on_it(server: Server) -> None:
    """They are on nobody's screen: "12.0.0.5" is the fifth that node 12 made. Other nodes keep their own."""
    server.last_node_id = "12"
    with CurrentNodeContext("prompt", "12.0.0.5"):
        warn("inside")
    with CurrentNodeContext("prompt", "123"):
        warn("another")
    assert server.texts == {"12": ["inside"], "123": ["another"]}


def test_nothing_is_sent_where_nobody_could_see_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    warn("no node executes")
    server.client_id = None
    with CurrentNodeContext("prompt", "3"):
        warn("no browser asked for this run")
    monkeypatch.delitem(sys.modules, "server")
    with CurrentNodeContext("prompt", "3"):
        warn("no server")
    assert not server.sent


def test_a_server_that_fails_ends_no_run(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr(server, "send_sync", fail)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # only decides whether the error is printed
    with CurrentNodeContext("prompt", "3"):
        warn("still in the log")
    assert "still in the log" in caplog.text


def test_one_handler_however_often_the_pack_is_loaded(server: Server) -> None:
    notices.install(PACK)
    assert [handler.get_name() for handler in PACK.handlers].count(notices.NAME) == 1


def test_a_report_is_shown_line_by_line(server: Server) -> None:
    with CurrentNodeContext("prompt", "3"):
        assert notices.report("A node", ["one", "two"]) == "one\ntwo"
        assert notices.report("A node", []) == ""
    assert server.texts == {"3": ["A node: one", "A node: two"]}


def test_a_warning_while_sampling_is_on_the_sampler(server: Server) -> None:
    """No step of a second pass lies in the window: nobody but the run could know."""
    with CurrentNodeContext("prompt", "guidance"):
        model = guided(tiny.unet("sd15"), end_percent=0.2)
    with CurrentNodeContext("prompt", "sampler"):
        tiny.sample(model, tiny.noise(16, 16), denoise=0.3)
    assert list(server.texts) == ["sampler"] and "no step of this run" in server.texts["sampler"][0]
