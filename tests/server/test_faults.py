"""What goes wrong around our code: cancels at any moment, clients and servers that die, files that are no weights."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import websocket

from tools import soak
from tools.comfy import graph as graphs
from tools.comfy.api import Client, Run
from tools.comfy.server import running
from tools.soak import short

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("demo_model")]

ROOT = Path(__file__).resolve().parents[2]
DEMO = {name: graphs.load(path) for name, path in graphs.demo_graphs(ROOT / "demo").items()}
MOMENTS = (0.05, 0.25, 0.5, 0.9)  # seconds after queueing: encoding, sampling, decoding
MANY = 100  # steps, of which a cancel leaves most undone however late it comes


def pixels(client: Client, run: Run) -> str:
    """Hash of a run's pictures."""
    assert run.status == "success", run.explain()
    return soak.pixels(client, run)


def canceled(client: Client, graph: graphs.Graph, moment: float) -> Run:
    """A run that is canceled so many seconds after queueing, where it has not ended by then."""
    timer = threading.Timer(moment, client.interrupt)
    timer.start()
    run = client.run(graph)
    timer.join()
    return run


def canceled_while_it_samples(client: Client, graph: graphs.Graph) -> Run:
    """A run of many steps that is canceled after the first: on a machine of any speed, it has not ended by then."""
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = MANY
    heard: list[str] = []

    def cancel(node: str, _done: int, _steps: int) -> None:
        if not heard:
            client.interrupt()
        heard.append(node)

    return client.run(graph, cancel)


def single(graph: graphs.Graph) -> graphs.Graph:
    """The same for one picture at a time."""
    for node in graph.values():
        if "batch_size" in node["inputs"]:
            node["inputs"]["batch_size"] = 1
    return graph


@pytest.mark.parametrize("name", ["sag_off_on", "regions", "optimize", "experts", "style"])
def test_a_cancel_at_any_moment_leaves_nothing_behind(name: str, client: Client) -> None:
    """The first cancel meets a server that has loaded nothing. From then on the whole graph, which is canceled, and its
    part without our technique, which is not, go on with the same models: what a cancel left on one would be seen."""
    whole = single(short(DEMO[name], 5))
    kept = graphs.upstream(whole, graphs.save_nodes(whole)[0])
    plain = {node_id: node for node_id, node in whole.items() if node_id in kept}
    loaders = {node_id for node_id, node in plain.items() if node["class_type"] == "FoveaLoadDemo"}
    (sampler,) = graphs.samplers(plain)
    expected = pixels(client, client.run(plain))

    def undisturbed(number: int, when: str) -> None:
        """The same picture, sampled again: ComfyUI starts from noise alone wherever denoise is above 0.9999, but knows
        no result of another value."""
        plain[sampler]["inputs"]["denoise"] = 1 - 1e-5 * (1 + number)
        run = client.run(plain)
        assert sampler not in run.cached and loaders <= {*run.cached}, (when, run.cached)
        assert pixels(client, run) == expected, when

    client.forget()
    run = canceled(client, single(short(DEMO[name], 99)), 0.0)
    assert run.status in ("success", "interrupted"), run.explain()
    assert pixels(client, client.run(plain)) == expected, "after a cancel at once"
    for number, moment in enumerate(MOMENTS):
        run = canceled(client, single(short(DEMO[name], 100 + number)), moment)
        assert run.status in ("success", "interrupted"), run.explain()
        undisturbed(number, f"after a cancel at {moment} s")
    run = canceled_while_it_samples(client, single(short(DEMO[name], 100 + len(MOMENTS))))
    assert run.status == "interrupted", run.explain()
    undisturbed(len(MOMENTS), "after a cancel while it sampled")


def test_a_client_that_dies_costs_nothing(client: Client) -> None:
    """The browser is closed in the middle: the prompt goes on, its result is in the history."""
    address = client.address.replace("http", "ws", 1) + f"/ws?clientId={client.id}"
    socket = websocket.create_connection(address, timeout=30, http_no_proxy=["127.0.0.1"])
    run = client.queue(short(DEMO["sag_off_on"], 7))
    socket.sock.close()  # no goodbye
    assert client.history(run.prompt_id, patience=120)["status"]["status_str"] == "success"
    assert client.run(short(DEMO["base"], 8)).status == "success"


def test_a_killed_server_starts_again_and_a_full_disk_is_told(tmp_path: Path) -> None:
    """Killed while it samples; what its history held gives the same pictures in a new server in the same folder."""
    with running(tmp_path, tmp_path / "first.log") as server:
        client = Client(server.address)
        run = client.run(short(DEMO["base"], 9))
        expected, remembered = pixels(client, run), client.history(run.prompt_id)["prompt"][2]
        client.queue(short(DEMO["optimize"], 10))
        time.sleep(1)
        os.killpg(server.process.pid, signal.SIGKILL)
    with running(tmp_path, tmp_path / "second.log") as server:
        client = Client(server.address)
        assert pixels(client, client.run(remembered)) == expected
        # No file may grow any more, as on a full disk; the log may, a little.
        room = server.log.stat().st_size + 200_000
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        remembered["save_base"]["inputs"]["filename_prefix"] = "full"
        large = {
            **remembered,
            "large": {
                "class_type": "ImageScaleBy",
                "inputs": {
                    "image": remembered["save_base"]["inputs"]["images"],
                    "upscale_method": "lanczos",
                    "scale_by": 6.0,
                },
            },
        }
        large["save_base"] = {"class_type": "SaveImage", "inputs": {"images": ["large", 0], "filename_prefix": "full"}}
        run = client.run(large)
        assert run.status == "error" and "SaveImage" in run.explain() and "File too large" in run.explain()
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert client.run(large).status == "success"
        assert pixels(client, client.run(remembered)) == expected


class Harmful:
    """A pickle that writes a file when it is read as code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(("folder", "node", "field"), [
    ("scorers", "FoveaLoadScorer", "file"), ("saliency", "FoveaLoadSaliencyModel", "file"),
])  # fmt: skip
def test_files_that_are_no_weights(
    folder: str, node: str, field: str, live: Any, client: Client, tmp_path: Path
) -> None:
    models, mark = live.base / "models" / folder, tmp_path / "mark"
    models.mkdir(parents=True, exist_ok=True)
    files = {
        "noise.safetensors": os.urandom(5000),
        "empty.safetensors": b"",
        "cut.safetensors": (ROOT / "demo" / "shapesworld_vae.safetensors").read_bytes()[:5000],
        "other.safetensors": (ROOT / "demo" / "shapesworld_vae.safetensors").read_bytes(),
        "harmful.pt": pickle.dumps(Harmful(mark)),
    }
    pickle.loads(files["harmful.pt"])  # noqa: S301
    assert mark.exists(), "it does harm where it is read as code"
    mark.unlink()
    for name, content in files.items():
        (models / name).write_bytes(content)
    try:
        for name in files:
            inputs: dict[str, Any] = {field: name}
            if node == "FoveaLoadScorer":
                inputs |= {"activation": "auto", "allow_download": False}
            run = client.run({"1": {"class_type": node, "inputs": inputs},
                              "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}})  # fmt: skip
            assert run.status == "error" and name in run.explain(), (name, run.explain())
            assert run.error is not None and not mark.exists()
    finally:
        for name in files:
            (models / name).unlink()
    assert client.run(short(DEMO["base"], 11)).status == "success"
