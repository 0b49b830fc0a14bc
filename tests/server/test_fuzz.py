"""Any value in any input, over the API: the server answers, says what is wrong with which input, and lives on.

FOVEA_FUZZ=50 tries fifty sets of values per node; four are tried each time, other ones for every node, and the same
until its widgets or this file change.
"""

from __future__ import annotations

import copy
import json
import os
import threading
import zlib
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import fovea
from fovea.nodes.demo_model import DUAL
from tools.comfy.api import Client, Refused, Run
from tools.comfy.graph import FEW
from tools.comfy.workflow import choices_of, first_value, inputs_of, is_widget
from tools.sweep.jobs import node

pytestmark = pytest.mark.server

EXAMPLES = int(os.environ.get("FOVEA_FUZZ", "4"))
PATIENCE, ENOUGH = 4.0, 120.0  # seconds, then the prompt is canceled: of any values, of right ones
NODES = sorted(node.define_schema().node_id for module in fovea.MODULES for node in module.NODES)
# Mistakes in a program, as against messages for people.
CRASHES = ("KeyError", "IndexError", "AttributeError", "TypeError", "AssertionError", "NameError", "ZeroDivisionError",
           "UnboundLocalError", "RecursionError", "OverflowError", "NotImplementedError")  # fmt: skip


# Something to connect for every type of socket.
SOURCES = {
    "load": node("FoveaLoadDemo"),
    "dual": node("FoveaLoadDemo", variant=DUAL),
    "text": node("CLIPTextEncode", clip=["load", 1], text="a red star"),
    "dual_text": node("CLIPTextEncode", clip=["dual", 1], text="a red star"),
    "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0xFF8800),
    "mask": node("SolidMask", value=1.0, width=64, height=64),
    "sigmas": node("BasicScheduler", model=["load", 0], scheduler="normal", steps=2, denoise=1.0),
    "regions": node("FoveaRegion", prompt="a red star", negative_prompt="", mask=["mask", 0], strength=1.0),
    "experts": node("FoveaExpert", model=["load", 0], boundary_unit="percent", boundary=0.5, cfg=-1.0),
    "scorer": node("FoveaLoadScorer", file="ShapesWorld CLIP (ships with Fovea)", activation="auto",
                   allow_download=False),
    "noise": node("RandomNoise", noise_seed=1),
    "sampler": node("KSamplerSelect", sampler_name="euler"),
}  # fmt: skip
OFFERED = {
    "MODEL": ["load", 0], "CLIP": ["load", 1], "VAE": ["load", 2], "CLIP_VISION": ["load", 3],
    "CONDITIONING": ["text", 0], "LATENT": ["latent", 0], "IMAGE": ["image", 0], "MASK": ["mask", 0],
    "SIGMAS": ["sigmas", 0], "FOVEA_REGIONS": ["regions", 0], "FOVEA_EXPERTS": ["experts", 0],
    "FOVEA_SCORER": ["scorer", 0], "NOISE": ["noise", 0], "SAMPLER": ["sampler", 0],
}  # fmt: skip
TEXTS = ["", " ", "0", "a, b", "0:1, 0.5:0", "1:", ":", "1e999", "-1", "../../../etc/passwd", "<img src=x onerror=1>",
         "\u00e9\u4e2d\U0001f600" * 50, "\x00", "embedding:none", "((a:1.5", "{\"a\": [}", "[]", "null", "a\n\nb", 3.5,
         None, [1], {"a": 1}]  # fmt: skip


def values(name: str, kind: Any, options: dict[str, Any]) -> list[Any]:
    """Right ones, limits, beyond the limits, and other types."""
    if kind in ("INT", "FLOAT"):
        low, high = options.get("min", 0), options.get("max", 1)
        # A picture of that size would be a test of the machine's memory.
        most = 512 if name in ("width", "height") else high
        return [low, most, low - 1, high + 1, 0, -0.0, 1, 0.5, float("nan"), 1e308, "7", "seven", None, [], {}, True]
    if kind == "BOOLEAN":
        return [True, False, "yes", None, 2]
    choices = choices_of(kind, options)
    return TEXTS if choices is None else [*choices, "nonsense", 0, None, ""]


# What some nodes need in place of the defaults.
SPECIAL = {
    "FoveaEncoderSchedule": {"clip": ["dual", 1]},
    "FoveaScorerFromNode": {"node": "GetImageSize"},
    "FoveaRegionsFromBoxes": {"boxes": '[{"bbox": [0, 0, 500, 500], "desc": "a red star"}]'},
}


def plain(info: dict[str, Any], connected: bool) -> dict[str, Any]:
    """Inputs with which a node runs quickly: defaults, few steps; connected: optional sockets too."""
    made: dict[str, Any] = {}
    required = info["input"].get("required") or {}
    for name, (kind, options) in inputs_of(info).items():
        if is_widget(kind, options):
            default, most = first_value(kind, options), FEW.get(name.rpartition(".")[2])
            made[name] = min(default, most) if most is not None and isinstance(default, int) else default
        else:
            sources = [OFFERED[part] for part in str(kind).split(",") if part in OFFERED]
            if sources and (connected or name in required):
                made[name] = sources[0]
    return {**made, **SPECIAL.get(info["name"], {})}


def graph_of(info: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """The node, what it needs and something that uses what it gives."""
    made = copy.deepcopy(SOURCES)
    made["it"] = node(info["name"], **inputs)
    for slot, kind in enumerate(info["output"]):
        used: dict[str, Any] = {}
        if kind == "MODEL":
            used = {"model": ["it", slot], "positive": ["text", 0]}
        elif kind == "CONDITIONING":
            used = {"model": ["load", 0], "positive": ["it", slot]}
        if used:
            used |= {"negative": ["text", 0], "latent_image": ["latent", 0], "seed": 1, "steps": 2, "cfg": 2.0}
            made[f"use{slot}"] = node("KSampler", sampler_name="euler", scheduler="normal", denoise=1.0, **used)
        elif kind == "GUIDER":
            made[f"use{slot}"] = node(
                "SamplerCustomAdvanced", noise=["noise", 0], guider=["it", slot], sampler=["sampler", 0],
                sigmas=["sigmas", 0], latent_image=["latent", 0],
            )  # fmt: skip
        made[f"show{slot}"] = node("PreviewAny", source=[f"use{slot}", 0] if f"use{slot}" in made else ["it", slot])
    return made


class Anything(Client):
    """Sends what JSON does not allow (NaN), as Python's own encoder writes it."""

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        headers = {"Content-Type": "application/json"}
        return self.session.post(self.address + path, json.dumps(body), headers=headers, timeout=self.timeout)


def outcome(client: Client, graph: dict[str, Any], patience: float = PATIENCE) -> Run | Refused:
    timer = threading.Timer(patience, client.interrupt)
    timer.start()
    try:
        return Anything(client.address).run(graph, limit=patience + 120)
    except Refused as why:
        return why
    finally:
        timer.cancel()
        timer.join()  # what it has begun to cancel must not be the next prompt


@pytest.mark.parametrize("name", NODES)
def test_any_value_is_answered(name: str, live: Any, object_info: dict, demo_model: Any) -> None:
    info, client = object_info[name], Client(live.address)
    widgets = {key: spec for key, spec in inputs_of(info).items() if is_widget(*spec)}
    broken = st.dictionaries(st.sampled_from(sorted(widgets)), st.integers(0, 10**6), min_size=1, max_size=3) \
        if widgets else st.just({})  # fmt: skip

    @seed(zlib.crc32(name.encode()))  # else all nodes would get the same, by the source of what follows
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(broken, st.booleans())
    def holds(picks: dict[str, int], connected: bool) -> None:
        choices = {key: values(key, *widgets[key]) for key in picks}
        given_values = {key: choices[key][pick % len(choices[key])] for key, pick in picks.items()}
        graph = graph_of(info, {**plain(info, connected), **given_values})
        result = outcome(client, graph)
        if isinstance(result, Refused):
            assert result.status == 400 and result.describe(), given_values
            told = result.node_errors.get("it")
            assert told is None or told["class_type"] == name
        else:
            assert result.status in ("success", "partial", "error", "interrupted"), given_values
            if result.status == "error":
                assert result.error is not None
                kind = result.error["exception_type"].rsplit(".", 1)[-1]
                assert kind not in CRASHES, (given_values, result.explain(), result.error["traceback"][-3:])
                message = result.error["exception_message"].strip()
                assert len(message) > 15, given_values
                if result.error["node_id"] == "it":
                    assert info["display_name"].removesuffix(" (Fovea)") in message, (given_values, message)

    holds()
    after = client.run(graph_of(object_info["FoveaLoadDemo"], {}), limit=120)
    assert after.status == "success", "after whatever was tried, a plain prompt runs"


def test_defaults_run(live: Any, object_info: dict, demo_model: Any) -> None:
    """The twin: with right values, nearly all of these graphs succeed, so the above tests more than refusals."""
    client, failed = Client(live.address), {}
    for name in NODES:
        result = outcome(client, graph_of(object_info[name], plain(object_info[name], False)), ENOUGH)
        if isinstance(result, Refused):
            failed[name] = result.describe()
        elif result.status != "success":
            failed[name] = result.explain()
    assert failed.keys() <= {"FoveaLoadSaliencyModel", "FoveaScorerFromCLIP"}, failed  # need files that are not here
