"""Prompts with regions whose model output is not used: the log says so, over the API as for anybody."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.sweep.jobs import node

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parent.parent.parent
SAID = "does not obey them"


@pytest.fixture
def run(client, live, demo_model: Path) -> Callable[[dict[str, Any]], int]:
    """Queues a graph; how often it was said meanwhile."""

    def queue(graph: dict[str, Any]) -> int:
        before = len(live.log_text())
        done = client.run(graph)
        assert done.status == "success", done.explain()
        return live.log_text()[before:].count(SAID)

    return queue


def graph(seed: int) -> dict[str, Any]:
    """The demo's regions, two steps, one sampler."""
    found = json.loads((ROOT / "demo" / "regions.json").read_text(encoding="utf-8"))
    kept = {key: found[key] for key in ("load", "boxes", "regions", "dense")}
    sampler = {"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "seed": seed, "steps": 2, "cfg": 2.0}
    return {
        **kept, "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sample": node("KSampler", model=["dense", 0], positive=["dense", 1], negative=["dense", 2],
                       latent_image=["latent", 0], **sampler),
        "show": node("PreviewAny", source=["sample", 0]),
    }  # fmt: skip


def without_model(seed: int, strength: float = 1.0) -> dict[str, Any]:
    made = copy.deepcopy(graph(seed))
    made["sample"]["inputs"]["model"] = ["load", 0]
    made["dense"]["inputs"]["cross_strength"] = strength
    return made


def test_said_where_the_link_is_missing(run: Callable[[dict[str, Any]], int]) -> None:
    assert run(graph(1)) == 0
    assert run(without_model(2, 0.9)) == 1
    assert run(graph(3)) == 0, "link added"
    # What is cached does not run again, but the link is gone.
    assert run(without_model(4)) == 1 and run(without_model(5, 0.8)) == 1
    assert run(graph(6)) == 0


def test_prompts_that_others_have_changed_first(run: Callable[[dict[str, Any]], int]) -> None:
    made = without_model(1, 0.7)
    made["area"] = node("ConditioningSetTimestepRange", conditioning=["dense", 1], start=0.0, end=1.0)
    made["sample"]["inputs"]["positive"] = ["area", 0]
    made["sample"]["inputs"]["negative"] = ["area", 0]
    assert run(made) == 1


def test_a_model_that_went_on_through_other_nodes_obeys(run: Callable[[dict[str, Any]], int]) -> None:
    made = graph(1)
    made["sag"] = node(
        "FoveaSelfAttentionGuidance", model=["dense", 0], scale=0.5, blur_sigma=2.0, threshold=1.0,
        mask_mode="threshold", guided_prompt="auto", blocks="auto", start_percent=0.0, end_percent=1.0,
        every_n_steps=1, rescale=0.0, blur_kernel="auto",
    )  # fmt: skip
    made["guider"] = node("CFGGuider", model=["sag", 0], positive=["dense", 1], negative=["dense", 2], cfg=2.0)
    made["dense"]["inputs"]["cross_strength"] = 0.6
    made["sample"] = node(
        "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["sampler", 0],
        sigmas=["sigmas", 0], latent_image=["latent", 0],
    )  # fmt: skip
    made["noise"] = node("RandomNoise", noise_seed=1)
    made["sampler"] = node("KSamplerSelect", sampler_name="euler")
    made["sigmas"] = node("BasicScheduler", model=["load", 0], scheduler="normal", steps=2, denoise=1.0)
    assert run(made) == 0
    made["guider"]["inputs"]["model"] = ["load", 0]
    made["dense"]["inputs"]["cross_strength"] = 0.5
    assert run(made) == 1
