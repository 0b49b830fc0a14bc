"""Sweeps: what is planned, what is kept, what is reported, who votes; on a live server and on Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import websocket

from fovea.nodes import region_start, regions
from fovea.nodes.scorers import BROKEN
from tools.comfy import api
from tools.comfy import graph as graphs
from tools.comfy.workflow import inputs_of
from tools.errors import SetupError
from tools.sweep import blind, evaluate, jobs, report, work
from tools.sweep.store import OLD, Result, Store

ROOT = Path(__file__).resolve().parents[2]
SCORER = "ShapesWorld CLIP (ships with Fovea)"
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
    (tmp_path / "p.tsv").write_text('Prompt\tCategory\tNote\n"a cat", alone\tAnimals\t\n')  # as in PartiPrompts
    assert jobs.read_prompts(tmp_path / "p.tsv") == [jobs.Prompt('"a cat", alone', "Animals")]
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
        graph = job.graph
        texts = [graph[node]["inputs"]["text"] for node in ("positive", "negative")]
        assert texts == [job.prompt.text, ""]
        samplers = [node["inputs"]["seed"] for node in graph.values() if "seed" in node["inputs"]]
        assert samplers and set(samplers) == {job.seed}
        scale = graph["sag"]["inputs"]["scale"]
        assert scale == (0.25 if job.setting.name == "weak" else small["sag"]["inputs"]["scale"])
    again = planned(tmp_path, small, "Prompts\na red star\na blue heart\n", "--seeds", "3-4,9", "--setting", "plain",
                    "--setting", "weak: sag.scale=0.25")  # fmt: skip
    assert [job.key for job in again] == [job.key for job in found], "the same command means the same jobs"


@pytest.mark.parametrize(("more", "message"), [
    (("--setting", "x: nothing.scale=1"), r"no nodes 'nothing'"),
    (("--setting", "x: sag.nothing=1"), r"no input 'nothing'"),
    (("--setting", "x: sag.scale"), r"no node\.input=value"),
    (("--seeds", "three"), r"--seeds 'three'"),
    (("--seeds", "5-3"), r"--seeds '5-3'"),
    (("--seeds", "3-"), r"--seeds '3-'"),
    (("--setting", "sag.scale=1"), r"begin with its name"),
    (("--setting", "x: sag.scale=NaN"), r"NaN is no value"),
    (("--setting", "x: positive.text=b"), r"where prompts or seeds are written"),
    (("--server", "http://127.0.0.1:9", "--workers", "2"), r"--server runs by itself"),
    (("--setting", "a", "--setting", "a"), r"the same name"),
    (("--limit", "0"), r"--limit should be"),
])  # fmt: skip
def test_what_is_wrong_is_told(
    tmp_path: Path, small: graphs.Graph, capsys: pytest.CaptureFixture, more: tuple[str, ...], message: str
) -> None:
    assert evaluate.main(command(tmp_path, small, "Prompts\na\n", *more)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_values_behind_a_link_are_found() -> None:
    graph = graphs.load(ROOT / "demo" / "base.json")
    sampler = next(node for node in graph.values() if "seed" in node["inputs"])
    sampler["inputs"]["seed"] = ["number", 0]
    graph["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1}}
    assert jobs.seed_places(graph) == [("number", "value")]
    assert all(graph[node]["class_type"] == "CLIPTextEncode" for node, _ in jobs.prompt_places(graph))


def test_names_may_have_dots() -> None:
    """An input of a combo's option, a title with a number in it."""
    graph = graphs.load(ROOT / "demo" / "optimize.json")
    (node,) = (key for key, each in graph.items() if each["class_type"] == "FoveaOptimizeLatent")
    for name in (node, "SDXL 1.0"):
        graph[node]["_meta"] = {"title": "SDXL 1.0"}
        assert jobs.place(graph, f"{name}.preset.iterations") == (node, "preset.iterations")
        assert jobs.place(graph, f"{name}.cfg") == (node, "cfg")


@pytest.mark.parametrize(("name", "places"), [
    ("base", {"positive.text"}), ("optimize", {"positive.text", "optimize.prompt"}),
    ("regions", {"positive.text", "dense.prompt", "paint.prompt", "start.background"}),
])  # fmt: skip
def test_every_text_that_is_the_prompt_is_found(name: str, places: set[str]) -> None:
    graph = graphs.load(ROOT / "demo" / f"{name}.json")
    assert {".".join(at) for at in jobs.prompt_places(graph)} == places


def test_prompts_are_followed_through_what_carries_them() -> None:
    words = {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a", "text_l": "b", "clip": ["c", 1]}}
    region = {"class_type": "FoveaRegion", "inputs": {"text": "not the prompt"}}
    graph = {
        "words": words, "region": region, "no": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad"}},
        "flux": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["words", 0], "guidance": 3.5}},
        "mark": {"class_type": "Mark", "inputs": {"conditioning": ["flux", 0], "regions": ["region", 0]}},
        "control": {"class_type": "ControlNetApply", "inputs": {"positive": ["mark", 0], "negative": ["no", 0]}},
        "guider": {"class_type": "BasicGuider", "inputs": {"conditioning": ["control", 0]}},
    }  # fmt: skip
    assert jobs.prompt_places(graph) == [("words", "text_g"), ("words", "text_l")]
    graph["joined"] = {"class_type": "StringConcatenate", "inputs": {"string_a": ["x", 0], "delimiter": ","}}
    words["inputs"]["text_g"] = ["joined", 0]
    with pytest.raises(SetupError, match="makes it of several values"):
        jobs.prompt_places(graph)


def test_words_of_another_node_are_followed_or_refused() -> None:
    """Text nodes call their input text, too; the prompt of Style Guidance without style is followed no further."""
    graph = {
        "note": {"class_type": "Text Multiline", "inputs": {"text": "b"}},
        "words": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a", "text_l": ["note", 0]}},
        "styled": {"class_type": "CLIPTextEncode", "inputs": {"text": "in style"}},
        "style": {"class_type": "FoveaStyleGuidance", "inputs": {"without_style": ["words", 0], "style_scale": 3.0}},
        "sample": {"class_type": "KSampler", "inputs": {"positive": ["words", 0], "model": ["style", 0]}},
    }  # fmt: skip
    assert jobs.prompt_places(graph) == [("note", "text"), ("words", "text_g")]
    graph["note"]["inputs"]["font"] = "serif"
    with pytest.raises(SetupError, match="makes it of several values"):
        jobs.prompt_places(graph)
    del graph["note"]["inputs"]["font"]
    graph["guider"] = {"class_type": "FoveaStyleGuider", "inputs": {
        "positive": ["words", 0], "without_style": ["styled", 0], "style_scale": 3.0}}  # fmt: skip
    assert jobs.prompt_places(graph) == [("note", "text"), ("words", "text_g")]


def test_comfyuis_own_regions_keep_their_words() -> None:
    def said(kind: str, text: str = "", **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": {**({"text": text, "clip": ["load", 1]} if text else {}), **inputs}}

    graph = {
        "whole": said("CLIPTextEncode", "all of it"), "masked": said("CLIPTextEncode", "a star"),
        "placed": said("CLIPTextEncode", "a heart"),
        "mask": said("ConditioningSetMask", conditioning=["masked", 0], mask=["m", 0], strength=1.0),
        "area": said("ConditioningSetArea", conditioning=["placed", 0], width=64, height=64, x=0, y=0, strength=1.0),
        "box": said("GLIGENTextBoxApply", "a cross", conditioning_to=["whole", 0], width=64, height=64, x=0, y=0),
        "two": said("ConditioningCombine", conditioning_1=["box", 0], conditioning_2=["mask", 0]),
        "all": said("ConditioningCombine", conditioning_1=["two", 0], conditioning_2=["area", 0]),
        "sample": said("KSampler", positive=["all", 0]),
    }  # fmt: skip
    assert jobs.prompt_places(graph) == [("whole", "text")]
    inpainting = {**graph, "sample": said("InpaintModelConditioning", positive=["all", 0], mask=["m", 0])}
    assert jobs.prompt_places(inpainting) == [("whole", "text")], "a mask beside the whole prompt is no region"


def test_a_painting_is_no_prompt() -> None:
    with pytest.raises(SetupError, match="comes from Region Painter"):
        jobs.prompt_places(graphs.load(ROOT / "demo" / "painter.json"))


def test_values_of_a_setting_may_have_commas() -> None:
    graph = {"a": {"class_type": "A", "inputs": {"x": 1, "y": 2, "z": ""}}}
    setting = jobs.read_setting(graph, 'n: a.x=[1, 2], a.y="b, c", a.z=plain text, a.x=-0.5')
    assert [value for _, value in setting.changes] == [[1, 2], "b, c", "plain text", -0.5]
    setting = jobs.read_setting(graph, "n: a.z=Infinity-XL.safetensors, a.z=NaN mix, a.z=-Infinity.pt")
    assert [value for _, value in setting.changes] == ["Infinity-XL.safetensors", "NaN mix", "-Infinity.pt"]
    for value in ("[1, NaN]", "-Infinity, a.y=2"):
        with pytest.raises(SetupError, match="is no value"):
            jobs.read_setting(graph, f"n: a.x={value}")


def test_a_switch_is_true_or_false() -> None:
    """ComfyUI takes any text for true."""
    graph = {"a": {"class_type": "A", "inputs": {"on": True, "text": "x"}}}
    assert jobs.read_setting(graph, "n: a.on=false, a.text=False").changes == ((("a", "on"), False),
                                                                               (("a", "text"), "False"))  # fmt: skip
    with pytest.raises(SetupError, match=r"a\.on is true or false, in small letters"):
        jobs.read_setting(graph, "n: a.text=y, a.on=False")


def test_outputs_of_one_title_are_told_apart() -> None:
    graph = {str(i): {"class_type": "SaveImage", "inputs": {"images": ["x", 0]}} for i in range(2)}
    assert sorted(jobs.outputs(graph).values()) == ["SaveImage (0)", "SaveImage (1)"]


def test_scores_that_are_none_do_not_move_the_others(tmp_path: Path, small: graphs.Graph) -> None:
    job = planned(tmp_path, small, "Prompts\na\n", "--scorer", "f")[0]
    output = next(iter(job.plan.outputs))
    told = {f"{jobs.SCORE}_0_{output}_told": {"text": ["a notice\n31.50  picture 3\nnan  picture 2\n-2.00  picture 1"]}}
    assert work.scores(job, told)[job.plan.outputs[output]]["f"] == [-2.0, None, 31.5]
    texts = ["10.00  picture 1\nnan  picture 2" + BROKEN, "9.1234  picture 2\n-2.0000  picture 1"]
    told = {f"{jobs.SCORE}_0_{output}_told": {"text": texts}}
    assert work.scores(job, told)[job.plan.outputs[output]]["f"] == [10.0, None, -2.0, 9.1234], "of a list of batches"


def test_an_aesthetic_head_is_named_with_its_clip(tmp_path: Path, small: graphs.Graph) -> None:
    both, one = "head_linear.pth@ViT-L-14.pt", "ViT-L-14@336px.pt"
    graph = planned(tmp_path, small, "Prompts\na\n", "--scorer", both, "--scorer", one)[0].graph
    head, alone, clip = (graph[f"{jobs.SCORE}_{name}"]["inputs"] for name in ("0", "1", "clip_0"))
    assert (head["file"], alone["file"], clip["file"]) == ("head_linear.pth", one, "ViT-L-14.pt")
    assert head["clip_scorer"] == [f"{jobs.SCORE}_clip_0", 0] and "clip_scorer" not in alone

    class There:
        """A server with the head alone."""

        def json(self, path: str) -> Any:
            return {"FoveaLoadScorer": {"input": {"required": {"file": [["head_linear.pth", one], {}]}}}}

    with pytest.raises(SetupError, match=r"--scorer ViT-L-14\.pt: the server has no such file"):
        work.refuse_unknown(There(), (both, one))


def failing(node: str) -> api.Run:
    return api.Run("p", status="error", error={"node_id": node, "node_type": "X", "exception_message": "no CLIP. "})


def test_a_scorer_that_cannot_be_loaded_stops_the_sweep(tmp_path: Path, small: graphs.Graph) -> None:
    first, second = planned(tmp_path, small, "Prompts\na\nb\n", "--scorer", "f")
    loads = [work.loading_failed(failing(f"{jobs.SCORE}_{name}")) for name in ("0", "clip_0", "0_7", "0_7_told")]
    assert loads == [True, True, False, False]
    store, failed = Store(tmp_path), {}
    work.keep(store, failed, first, Result({"x": [PNG]}, {}, 1.0, unscored="out of memory"))
    with pytest.raises(SetupError, match=r"no CLIP\. Mend .*head\.pth@ViT-L-14\.pt"):
        work.keep(store, failed, second, Result({"x": [PNG]}, {}, 1.0, failing("n").explain(), unloaded=True))
    assert set(failed) == {first.key, second.key} and store.drawn(second), "its pictures are kept all the same"


def test_a_slow_job_has_failed_and_its_server_is_there() -> None:
    class Slow:
        def run(self, graph: graphs.Graph, limit: float) -> api.Run:
            raise api.TooSlow(f"{limit:g} s")

    worker = object.__new__(work.Worker)
    worker.client, worker.limit = Slow(), 7.0
    with pytest.raises(work.JobFailed, match="7 s: --limit allows more"):
        worker.run({})


def test_a_sweep_that_is_terminated_tells_what_it_has(
    tmp_path: Path, small: graphs.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM raises, so that the client can take its job off the server."""
    given = []

    def terminated(*args: Any) -> None:
        given.append(args[-1])
        assert callable(signal.getsignal(signal.SIGTERM)), "else it would end us here"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(work, "alone", terminated)
    with pytest.raises(SystemExit) as ended:
        evaluate.main(command(tmp_path, small, "Prompts\na\n", "--limit", "90"))
    assert ended.value.code == 128 + signal.SIGTERM and given == [5400.0]
    assert (tmp_path / "out" / "report.html").exists()


def test_a_job_is_kept_once_and_whole(tmp_path: Path, small: graphs.Graph) -> None:
    job, other = planned(tmp_path, small, "Prompts\na\nb\n")
    store = Store(tmp_path)
    store.commit(job, Result({"x": [PNG]}, {"x": {"s": [1.0]}}, 1.0))
    store.commit(job, Result({"x": [PNG, PNG]}, {"x": {"s": [2.0, 3.0]}}, 1.0))  # a second worker, later
    assert store.read(job)["scores"] == {"x": {"s": [1.0]}} and not list((tmp_path / "jobs").glob(".part-*"))
    for name, age in ((".part-killed", 2 * OLD), (".part-beside", 0)):
        (tmp_path / "jobs" / name).mkdir()
        os.utime(tmp_path / "jobs" / name, (time.time() - age,) * 2)
    assert Store(tmp_path).done(job) and not store.done(other)
    assert [left.name for left in (tmp_path / "jobs").glob(".part-*")] == [".part-beside"]
    (tmp_path / "jobs" / other.key).mkdir()  # half a result
    store.commit(other, Result({"x": [PNG]}, {}, 1.0))
    assert store.done(other)


def filled(tmp_path: Path, small: graphs.Graph) -> tuple[list[jobs.Job], Store]:
    """Two settings, four prompts; the second setting is better by one on every prompt. Names with markup in them."""
    one = {key: node for key, node in small.items() if key in graphs.upstream(small, "save_with")}
    every = planned(tmp_path, one, "Prompts,Category\na,k\nb,k\n<b>c</b>,m\nd,m\n", "--setting", "plain",
                    "--setting", "<i>: sag.scale=1")  # fmt: skip
    store, (output,) = Store(tmp_path), every[0].plan.outputs.values()
    for number, job in enumerate(every):
        score = number // 2 + (job.setting.name != "plain")
        store.commit(job, Result({output: [PNG]}, {output: {"s": [float(score)]}}, 1.0))
    return every, store


def test_report_compares_pairs(tmp_path: Path, small: graphs.Graph) -> None:
    every, store = filled(tmp_path, small)
    told = report.write(tmp_path, "t", every, store, {every[4].key: "<script>"})
    plain, better = told["table"]
    assert plain["mean"][0] == 1.5 and better["less_first"] == [1.0, 1.0, 1.0] and better["pairs"] == 4
    assert {row["n"] for rows in told["categories"].values() for row in rows} == {2}
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "<b>c</b>" not in page and "&lt;i&gt;" in page and "data:image/png" in page
    assert told["failed"] == {every[4].key: "plain, '<b>c</b>', seed 0: <script>"}
    assert "&lt;script&gt;" in page and every[4].key in page


def test_the_page_shows_all_pictures(tmp_path: Path, small: graphs.Graph) -> None:
    """Also those of which the first arm has none yet."""
    one = {key: node for key, node in small.items() if key in graphs.upstream(small, "save_with")}
    settings = ("--setting", "plain", "--setting", "b: sag.scale=1")
    every = planned(tmp_path, one, "Prompts\na\n", "--seeds", "0-31", *settings)
    store, (output,) = Store(tmp_path), every[0].plan.outputs.values()
    for job in every[1:]:
        store.commit(job, Result({output: [PNG]}, {}, 1.0))
    report.write(tmp_path, "t", every, store, {})
    page = (tmp_path / "report.html").read_text()
    assert page.count("<br>seed ") == 32 and page.count("<img loading=lazy") == 63


def test_layouts_of_one_prompt_are_counted_apart(tmp_path: Path, small: graphs.Graph) -> None:
    one = {key: node for key, node in small.items() if key in graphs.upstream(small, "save_with")}
    every = planned(tmp_path, one, "Prompts\na\nb\n")
    for number, job in enumerate(every):
        plan = replace(job.plan, boxes_at=[("positive", "boxes")])
        every[number] = replace(job, plan=plan, prompt=jobs.Prompt("a", boxes=f"[{number}]"))
    store, (output,) = Store(tmp_path), every[0].plan.outputs.values()
    for number, job in enumerate(every):
        store.commit(job, Result({output: [PNG]}, {output: {"s": [float(number)]}}, 1.0))
    (row,) = report.tabulate(report.arms(every, store))
    assert row["n"] == 2 and row["mean"][0] == 0.5 and len(row["mean"]) == 3, "two groups have an interval"


def test_one_prompt_has_no_interval(tmp_path: Path, small: graphs.Graph) -> None:
    every, store = filled(tmp_path, small)
    (plain, _) = report.write(tmp_path, "t", every[:2], store, {})["table"]
    assert plain["mean"] == [0.0] and report.written(plain["mean"]) == "0.000"
    assert report.written([1.0, 0.5, 1.5]) == "1.000 [0.500, 1.500]"


def test_blind_votes(tmp_path: Path, small: graphs.Graph) -> None:
    every, store = filled(tmp_path, small)
    (tmp_path / "blind.jsonl").write_text('{"pair": ["jobs/of/others"], "winner": "plain"}\n{"cut o')
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
    arms = report.arms(every, store)
    swapped = blind.Ballot(tmp_path, {"plain": arms["<i>"], "<i>": arms["plain"]}, "plain", "<i>").result()
    assert (swapped["wins"], swapped["losses"]) == (4, 0), "votes are for pictures, whatever their setting is called"
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
def test_on_a_live_server_nothing_depends_on_messages(
    small: graphs.Graph, client: api.Client, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The websocket is lost at once: runs are followed all the same, removed ones are noticed, slow ones stopped."""
    connect = websocket.create_connection

    def lost(*args: Any, **more: Any) -> websocket.WebSocket:
        socket = connect(*args, **more)
        socket.shutdown()
        return socket

    monkeypatch.setattr(websocket, "create_connection", lost)
    monkeypatch.setattr(api, "PAUSE", 0.1)
    run = client.run(small)
    assert run.status == "success" and run.images("save_with")
    long = json.loads(json.dumps(small))
    for node in long.values():
        node["inputs"].update({"steps": 10000} if "steps" in node["inputs"] else {})
    with pytest.raises(api.TooSlow):
        client.run(long, limit=5)
    other = api.Client(client.address)
    before = other.queue(long)

    def remove() -> None:
        """The prompt that comes next, once it waits."""
        for _ in range(600):
            waiting = [each[1] for each in other.json("/queue")["queue_pending"] if each[1] != before.prompt_id]
            if waiting:
                other.post("/queue", {"delete": waiting})
                return
            time.sleep(0.1)

    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    assert client.run(small).status == api.REMOVED
    remover.join()
    other.drop(before.prompt_id)


@pytest.mark.server
def test_a_scorer_that_is_not_there_is_told_before_anything_is_sampled(
    tmp_path: Path, small: graphs.Graph, live: Any, capsys: pytest.CaptureFixture
) -> None:
    line = command(tmp_path, small, "Prompts\na red star\n", "--scorer", "ViT-B-99.safetensors", "--server",
                   live.address)  # fmt: skip
    assert evaluate.main(line) == 2
    told = capsys.readouterr().err
    assert re.search(r"ViT-B-99\.safetensors: the server has no such file.*It has: .*ShapesWorld CLIP", told)
    assert not list((tmp_path / "out" / "jobs").glob("*"))


@pytest.mark.server
def test_pictures_are_kept_where_only_scoring_fails(
    tmp_path: Path, small: graphs.Graph, live: Any, capsys: pytest.CaptureFixture
) -> None:
    broken = live.base / "models" / "scorers" / "broken.safetensors"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"no weights")
    try:
        prompts = "Prompts\na red star\na blue heart\n"
        line = command(tmp_path, small, prompts, "--scorer", broken.name, "--server", live.address)
        assert evaluate.main(line) == 2
    finally:
        broken.unlink()
    assert "a scorer cannot be loaded" in capsys.readouterr().err
    job, other = planned(tmp_path, small, prompts, "--scorer", broken.name)
    store = Store(tmp_path / "out")
    assert not store.drawn(other), "it would fail as well"
    assert store.drawn(job) and not store.done(job), "to be tried again"
    assert len(list((tmp_path / "out" / "jobs" / job.key).glob("*.png"))) == 4
    assert "broken" in store.read(job)["unscored"]
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["table"] == [] and "its pictures are kept" in told["failed"][job.key]


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

    failed: dict[str, str] = {}
    work.on_ray(every, store, failed, workers=2, committed=strike)
    assert not failed and killed and all(store.done(job) for job in every)
    assert len(list((tmp_path / "jobs").iterdir())) == len(every), "no job is kept twice"
    rated = [values for job in every for each in store.read(job)["scores"].values() for values in each.values()]
    assert rated and all(len(values) == 2 for values in rated)


def test_layouts_go_with_their_prompts(tmp_path: Path) -> None:
    """The graph and the layouts that ship, for owners of checkpoints: every arm gets prompt, boxes and seed."""
    folder = ROOT / "tools" / "sweep"
    args = evaluate.parser().parse_args([str(folder / "regions.json"), str(folder / "layouts.json"), "--seeds", "0-1"])
    every = evaluate.planned(args)
    layouts = json.loads((folder / "layouts.json").read_text())
    assert len(every) == 2 * len(layouts) and len({job.key for job in every}) == len(every)
    for job in every:
        (layout,) = (each for each in layouts if each["prompt"] == job.prompt.text)
        graph = job.graph
        assert json.loads(graph["boxes"]["inputs"]["value"]) == layout["boxes"]
        assert graph["prompt"]["inputs"]["value"] == layout["prompt"] and graph["seed"]["inputs"]["value"] == job.seed
        assert all(box["desc"] in layout["prompt"] for box in layout["boxes"]), "regions are found in the prompt"
    assert len(jobs.outputs(graph)) == 7
    known = {node.define_schema().node_id: node for node in (*regions.NODES, *region_start.NODES)}
    for node in graph.values():
        if kind := known.get(node["class_type"]):
            assert set(node["inputs"]) <= set(inputs_of(kind.GET_NODE_INFO_V1(), node["inputs"]))
            needed = (socket for socket in kind.define_schema().inputs if not socket.optional)
            assert all(socket.id in node["inputs"] for socket in needed)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"prompt": "a"}]', '[{"boxes": []}]', "{}{}"])
def test_layouts_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(SetupError, match=r"should be a list"):
        jobs.read_prompts(tmp_path / "p.json")


def test_boxes_need_a_node_that_takes_them(tmp_path: Path, small: graphs.Graph) -> None:
    (tmp_path / "p.json").write_text('[{"prompt": "a", "boxes": []}]')
    with pytest.raises(SetupError, match="Regions from Boxes"):
        evaluate.planned(evaluate.parser().parse_args([*command(tmp_path, small, "")[:1], str(tmp_path / "p.json")]))
