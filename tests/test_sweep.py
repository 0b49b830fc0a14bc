"""Sweeps: what is planned, what is kept, what is reported, who votes; on a live server and on Ray."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tools import evaluate
from tools import graph as graphs
from tools.errors import SetupError
from tools.sweep import blind, jobs, report, work
from tools.sweep.store import Result, Store

ROOT = Path(__file__).resolve().parent.parent
SCORER = "ShapesWorld CLIP A (ships with Fovea)"
PNG = b"\x89PNG stands for a picture"


@pytest.fixture
def small() -> graphs.Graph:
    """The demo's SAG graph on small latents with two steps."""
    graph = graphs.load(ROOT / "demo" / "sag_off_on.json")
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
        if "batch_size" in node["inputs"]:
            node["inputs"].update(width=64, height=64, batch_size=2)
    return graph


def command(tmp_path: Path, graph: graphs.Graph, prompts: str, *more: str) -> list[str]:
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    (tmp_path / "prompts.csv").write_text(prompts)
    return [str(tmp_path / "graph.json"), str(tmp_path / "prompts.csv"), "--out", str(tmp_path / "out"), *more]


def planned(tmp_path: Path, graph: graphs.Graph, prompts: str, *more: str) -> list[jobs.Job]:
    return evaluate.planned(evaluate.parser().parse_args(command(tmp_path, graph, prompts, *more)))


def test_prompts_are_read_in_drawbenchs_form(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('Prompts,Category\n"a red star, alone",Colors\nb,Counting\n,\n', encoding="utf-8-sig")
    assert jobs.read_prompts(file) == [jobs.Prompt("a red star, alone", "Colors"), jobs.Prompt("b", "Counting")]
    (tmp_path / "p.txt").write_text("one\n\n two \n")
    assert jobs.read_prompts(tmp_path / "p.txt") == [jobs.Prompt("one"), jobs.Prompt("two")]
    file.write_text("Name\nx\n")
    with pytest.raises(SetupError, match="no column of prompts"):
        jobs.read_prompts(file)
    file.write_text("Prompts\n")
    with pytest.raises(SetupError, match=r"column|no prompt"):
        jobs.read_prompts(file)


def test_every_combination_has_its_graph(tmp_path: Path, small: graphs.Graph) -> None:
    found = planned(tmp_path, small, "Prompts\na red star\na blue heart\n", "--seeds", "3-4,9", "--setting", "plain",
                    "--setting", "weak: sag.scale=0.25")  # fmt: skip
    assert len(found) == len({job.key for job in found}) == 2 * 3 * 2
    for job in found:
        texts = [job.graph[node]["inputs"]["text"] for node in ("positive", "negative")]
        assert texts == [job.prompt.text, ""]
        samplers = [node["inputs"]["seed"] for node in job.graph.values() if "seed" in node["inputs"]]
        assert samplers and set(samplers) == {job.seed}
        scale = job.graph["sag"]["inputs"]["scale"]
        assert scale == (0.25 if job.setting == "weak" else small["sag"]["inputs"]["scale"])
    again = planned(tmp_path, small, "Prompts\na red star\na blue heart\n", "--seeds", "3-4,9", "--setting", "plain",
                    "--setting", "weak: sag.scale=0.25")  # fmt: skip
    assert [job.key for job in again] == [job.key for job in found], "the same command means the same jobs"


@pytest.mark.parametrize(("more", "message"), [
    (("--setting", "x: nothing.scale=1"), r"no nodes 'nothing'"),
    (("--setting", "x: sag.nothing=1"), r"no input 'nothing'"),
    (("--setting", "x: sag.scale"), r"no node\.input=value"),
    (("--seeds", "three"), r"--seeds 'three'"),
    (("--setting", "a", "--setting", "a"), r"the same name"),
])  # fmt: skip
def test_what_is_wrong_is_told(tmp_path: Path, small: graphs.Graph, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        planned(tmp_path, small, "Prompts\na\n", *more)
    assert evaluate.main(command(tmp_path, small, "Prompts\na\n", *more)) == 2


def test_values_behind_a_link_are_found() -> None:
    graph = graphs.load(ROOT / "demo" / "base.json")
    sampler = next(node for node in graph.values() if "seed" in node["inputs"])
    sampler["inputs"]["seed"] = ["number", 0]
    graph["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1}}
    assert jobs.seed_places(graph) == [("number", "value")]
    assert all(graph[node]["class_type"] == "CLIPTextEncode" for node, _ in jobs.prompt_places(graph))


def test_a_job_is_kept_once_and_whole(tmp_path: Path, small: graphs.Graph) -> None:
    job, other = planned(tmp_path, small, "Prompts\na\nb\n")
    store = Store(tmp_path)
    store.commit(job, Result({"x": [PNG]}, {"x": {"s": [1.0]}}, 1.0))
    store.commit(job, Result({"x": [PNG, PNG]}, {"x": {"s": [2.0, 3.0]}}, 1.0))  # a second worker, later
    assert store.read(job)["scores"] == {"x": {"s": [1.0]}} and not list((tmp_path / "jobs").glob(".part-*"))
    (tmp_path / "jobs" / ".part-killed").mkdir()
    assert Store(tmp_path).done(job) and not store.done(other) and not list((tmp_path / "jobs").glob(".part-*"))


def filled(tmp_path: Path, small: graphs.Graph) -> tuple[list[jobs.Job], Store]:
    """Two settings, four prompts; the second setting is better by one on every prompt. Names with markup in them."""
    every = planned(tmp_path, small, "Prompts,Category\na,k\nb,k\n<b>c</b>,m\nd,m\n", "--setting", "plain",
                    "--setting", "<i>: sag.scale=1")  # fmt: skip
    store = Store(tmp_path)
    for number, job in enumerate(every):
        score = number // 2 + (job.setting != "plain")
        store.commit(job, Result({"only": [PNG]}, {"only": {"s": [float(score)]}}, 1.0))
    return [jobs.Job(job.setting, job.prompt, job.seed, job.graph, {"it": "only"}) for job in every], store


def test_report_compares_pairs(tmp_path: Path, small: graphs.Graph) -> None:
    every, store = filled(tmp_path, small)
    told = report.write(tmp_path, "t", every, store, {"k": "<script>"})
    plain, better = told["table"]
    assert plain["mean"][0] == 1.5 and better["less_first"] == [1.0, 1.0, 1.0] and better["pairs"] == 4
    assert {row["n"] for rows in told["categories"].values() for row in rows} == {2}
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "<b>c</b>" not in page and "&lt;i&gt;" in page and "data:image/png" in page


def test_blind_votes(tmp_path: Path, small: graphs.Graph) -> None:
    every, store = filled(tmp_path, small)
    ballot = blind.Ballot(tmp_path, report.arms(every, store), "plain", "<i>")
    page = blind.server(ballot)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{page.server_port}/"

    def ask(path: str, body: Any = None, kind: str = "application/json") -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind} if data else {}
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=10) as reply:
            return reply.read()

    try:
        assert b"Which is better" in ask("")
        seen = set()
        while (pair := json.loads(ask("pair"))).get("number") is not None:
            assert not {"plain", "<i>"} & set(map(str, pair.values())), "the page does not know which is which"
            assert ask(f"picture/{pair['number']}/left") == PNG
            side = ballot.pairs[pair["number"]]["arms"].index("<i>")
            ask("vote", {"number": pair["number"], "choice": ("left", "right")[side]})
            ask("vote", {"number": pair["number"], "choice": "equal"})  # a second click is no second vote
            seen.add(pair["number"])
        assert len(seen) == 4
        wrong: list[tuple[str, Any]] = [("vote", {"number": 99, "choice": "left"}), ("x", None)]
        for path, body in (*wrong, ("vote", {"number": 0, "choice": "x"})):
            with pytest.raises(urllib.error.HTTPError):
                ask(path, body)
        with pytest.raises(urllib.error.HTTPError):
            ask("vote", {"number": 0, "choice": "left"}, "text/plain")
    finally:
        page.shutdown()
    assert blind.Ballot(tmp_path, report.arms(every, store), "plain", "<i>").result() == {
        "arms": ("plain", "<i>"), "wins": 0, "losses": 4, "equal": 0, "win_rate": [0.0, 0.0, 0.4899]}  # fmt: skip
    with pytest.raises(SetupError, match="no arm"):
        blind.Ballot(tmp_path, report.arms(every, store), "plain", "other")


@pytest.mark.server
def test_on_a_live_server(tmp_path: Path, small: graphs.Graph, live: Any, demo_model: Path) -> None:
    """Runs, scores each picture, goes on where it was stopped, tells what fails."""
    line = command(tmp_path, small, "Prompts\na red star\na blue heart\n", "--setting", "plain", "--scorer", SCORER,
                   "--server", live.address)  # fmt: skip
    assert evaluate.main(line) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["done"] == 2 and [row["n"] for row in told["table"]] == [4, 4], "two outputs, two prompts, two each"
    kept = sorted((tmp_path / "out" / "jobs").glob("*/*.png"))
    times = [file.stat().st_mtime_ns for file in kept]
    assert evaluate.main([*line, "--setting", "bad: sample_with.cfg=-5"]) == 1
    assert [file.stat().st_mtime_ns for file in kept] == times, "what was done is not done again"
    assert "cfg" in " ".join(json.loads((tmp_path / "out" / "report.json").read_text())["failed"].values())


@pytest.mark.server
def test_a_killed_worker_loses_nothing(tmp_path: Path, small: graphs.Graph, demo_model: Path) -> None:
    """Two Ray actors with a server each; one is killed after the first result."""
    ray = pytest.importorskip("ray", reason="Ray is optional: pip install -r requirements-cluster.txt")
    every = planned(tmp_path, small, "Prompts\n" + "\n".join(f"a red star {i}" for i in range(8)), "--scorer", SCORER)
    store, killed = Store(tmp_path), []

    def strike(job: jobs.Job, actors: list[Any]) -> None:
        if not killed:
            killed.append(actors[0])
            ray.kill(actors[0])

    assert work.on_ray(every, store, workers=2, committed=strike) == {}
    assert killed and all(store.done(job) for job in every)
    assert len(list((tmp_path / "jobs").iterdir())) == len(every), "no job is kept twice"
    rated = [values for job in every for each in store.read(job)["scores"].values() for values in each.values()]
    assert rated and all(len(values) == 2 for values in rated)
