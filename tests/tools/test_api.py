"""Following a prompt where messages are lost, the prompt is taken away, or it takes too long: on a clock of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
import websocket

from tools.comfy import api

START = {"type": "execution_start", "data": {"prompt_id": "mine"}}
STOP = {"type": "execution_interrupted", "data": {"prompt_id": "mine"}}
END = [["execution_start", {}], ["execution_cached", {"nodes": ["load"]}], ["execution_success", {}]]  # in the history


class Clock:
    """Time that passes where somebody waits."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(api, "time", made)
    return made


class Socket:
    """Says or raises what it was given, then what other packs tell everybody each second; or, with none, nothing."""

    def __init__(self, clock: Clock, *said: Any, chatter: str = "") -> None:
        self.clock, self.said, self.chatter, self.connected, self.timeout = clock, list(said), chatter, True, 0.0

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def recv(self) -> str:
        if not self.connected:
            raise websocket.WebSocketConnectionClosedException("closed")
        if self.said:
            said = self.said.pop(0)
            if isinstance(said, BaseException):
                raise said
            return json.dumps(said)
        self.clock.sleep(1.0 if self.chatter else self.timeout)
        if not self.chatter:
            raise websocket.WebSocketTimeoutException("quiet")
        return self.chatter

    def shutdown(self) -> None:
        self.connected = False

    close = shutdown


class Following(api.Client):
    """Asks no server: places is where the prompt is at one question after the other, the last one ever after; told is
    what the history holds of it; whoever drops it hears `answer`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, socket: Socket, places: list[Any], told: Any = (), answer: Any = ()
    ) -> None:
        super().__init__("http://127.0.0.1:9")
        monkeypatch.setattr(websocket, "create_connection", lambda *_, **__: socket)
        self.socket, self.places, self.told, self.answer, self.dropped = socket, places, told, answer, 0

    def queue(self, graph: Any) -> api.Run:
        return api.Run("mine")

    def drop(self, prompt_id: str) -> None:
        self.dropped += 1
        self.socket.said += self.answer

    def json(self, path: str, **query: str) -> Any:
        if path != "/queue":
            return {"mine": {"status": {"messages": self.told}, "outputs": {"save": {}}}} if self.told else {}
        place = self.places.pop(0) if len(self.places) > 1 else self.places[0]
        if isinstance(place, Exception):
            raise place
        return {f"queue_{name}": [[0, "mine", {}]] if name == place else [] for name in ("pending", "running")}


@pytest.mark.parametrize("why", [ConnectionResetError(), websocket.WebSocketConnectionClosedException("lost")])
def test_a_lost_websocket_is_no_lost_prompt(monkeypatch: pytest.MonkeyPatch, clock: Clock, why: Exception) -> None:
    places = ["pending", requests.ReadTimeout(), "running", "nowhere"]
    client = Following(monkeypatch, Socket(clock, START, why), places, END)
    run = client.run({})
    assert (run.status, run.cached, run.outputs, client.dropped) == ("success", ["load"], {"save": {}}, 0)


@pytest.mark.parametrize("why", [SystemExit(143), KeyboardInterrupt(), requests.ConnectionError(), TypeError()])
def test_nothing_is_left_on_the_server(monkeypatch: pytest.MonkeyPatch, clock: Clock, why: BaseException) -> None:
    """Whatever ends the following; the third: the server is gone."""
    gone = isinstance(why, requests.ConnectionError)
    client = Following(monkeypatch, Socket(clock, START, ConnectionResetError() if gone else why), [why])
    with pytest.raises(type(why)):
        client.run({})
    assert client.dropped == 1


@pytest.mark.parametrize("chatter", ["", '{"type": "monitor", "data": {}}'])
def test_a_prompt_that_is_taken_out_of_the_queue_is_noticed(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, chatter: str
) -> None:
    client = Following(monkeypatch, Socket(clock, chatter=chatter), ["pending", "nowhere"])
    run = client.run({})
    assert run.explain() == api.REMOVED and clock.now < api.LIMIT / 10


def test_the_clock_starts_with_the_prompt(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Others are before it for ten times its limit."""
    client = Following(monkeypatch, Socket(clock), ["pending"] * 40 + ["running", "nowhere"], END)
    assert client.run({}, limit=60).status == "success" and clock.now > 600 and not client.dropped


def test_what_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    client = Following(monkeypatch, Socket(clock), ["pending"] * 40 + ["running"], answer=[STOP])
    with pytest.raises(api.TooSlow, match="longer than 1 min"):
        client.run({}, limit=60)
    assert client.dropped
    client = Following(monkeypatch, Socket(clock, START), ["running"])
    with pytest.raises(TimeoutError, match="did not stop") as hung:
        client.run({}, limit=60)
    assert not isinstance(hung.value, api.TooSlow), "its server is of no use any more"
