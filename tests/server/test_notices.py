"""Whoever queues a graph is told on the node what was not done as asked: over the websocket, as the editor is told."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tools.comfy.api import Run
from tools.sweep.jobs import node

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[2]
_seeds = itertools.count(70_000)  # nothing comes from the server's cache
SAMPLER = {"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "steps": 2, "cfg": 2.0}
SAG = {
    "scale": 0.5, "blur_sigma": 2.0, "threshold": 1.0, "mask_mode": "threshold", "guided_prompt": "auto",
    "blocks": "auto", "start_percent": 0.0, "end_percent": 1.0, "every_n_steps": 1, "rescale": 0.0,
    "blur_kernel": "auto",
}  # fmt: skip


@pytest.fixture
def demo(demo_model: Path) -> dict[str, Any]:
    """The demo's regions, two steps of a small picture."""
    found = json.loads((demo_model / "regions.json").read_text(encoding="utf-8"))
    made = {key: found[key] for key in ("load", "boxes", "regions", "dense")}
    made["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    made["sample"] = node("KSampler", model=["dense", 0], positive=["dense", 1], negative=["dense", 2],
                          latent_image=["latent", 0], seed=next(_seeds), **SAMPLER)  # fmt: skip
    made["show"] = node("PreviewAny", source=["sample", 0])
    made["dense"]["inputs"]["time_exponent"] = next(_seeds) / 100_000  # not from the cache either
    return made


def done(client, graph: dict[str, Any]) -> Run:
    run = client.run(graph)
    assert run.status == "success", run.explain()
    return run


def test_nothing_where_all_is_well(client, demo: dict[str, Any]) -> None:
    assert done(client, demo).notices == {}


def test_no_regions(client, demo: dict[str, Any]) -> None:
    demo["boxes"]["inputs"]["value"] = "[]"
    notices = done(client, demo).notices
    assert list(notices) == ["dense"]
    (line,) = notices["dense"]
    assert "There is no region" in line


def test_a_region_without_a_prompt_and_a_model_that_is_not_connected(client, demo: dict[str, Any]) -> None:
    """Both on the node, a line each."""
    demo["boxes"]["inputs"]["value"] = '[{"bbox": [60, 60, 480, 480], "desc": ""}]'
    demo["sample"]["inputs"]["model"] = ["load", 0]
    notices = done(client, demo).notices
    assert list(notices) == ["dense"]
    first, second = notices["dense"]
    assert "KSampler (sample) uses these prompts" in first and "region 1 has no prompt" in second


def test_guidance_that_never_ran_is_told_on_the_sampler(client, demo: dict[str, Any]) -> None:
    """Only the run knows; it knows nothing of nodes."""
    demo["sag"] = node("FoveaSelfAttentionGuidance", model=["dense", 0], **{**SAG, "end_percent": 0.2})
    demo["sample"]["inputs"].update(model=["sag", 0], denoise=0.5)
    notices = done(client, demo).notices
    assert list(notices) == ["sample"]
    regions, guidance = notices["sample"]
    assert "Regions do nothing in this run" in regions, "which end at 0.5, too"
    assert "Self-Attention Guidance (Fovea): no guidance" in guidance


def test_previews_run_by_themselves_and_show_their_picture(client, demo: dict[str, Any]) -> None:
    graph = {key: demo[key] for key in ("load", "boxes", "regions")}
    graph["preview"] = node("FoveaRegionPreview", regions=["regions", 0], width=256, height=256, overlap="as given")
    graph["image"] = node("EmptyImage", width=64, height=64, batch_size=2, color=next(_seeds))
    graph["saliency"] = node("FoveaSaliencyMap", image=["image", 0], opacity=0.5, normalize=True)
    graph["scorer"] = node("FoveaLoadScorer", file="ShapesWorld CLIP (ships with Fovea)", activation="auto")
    graph["score"] = node("FoveaScoreImages", image=["image", 0], scorer=["scorer", 0], prompt="a red star")
    graph["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph["prompt"] = node("CLIPTextEncode", clip=["load", 1], text="a red star")
    graph["map"] = node(
        "FoveaAttentionMap", model=["load", 0], positive=["prompt", 0], latent=["latent", 0], levels="0.5", seed=1,
        blocks="auto", threshold=1.0, point="", phrase="", prompt="",
    )  # fmt: skip
    run = done(client, graph)
    shown = {key: len(run.images(key)) for key in run.outputs}
    assert shown == {"preview": 1, "saliency": 2, "score": 1, "map": 1}
    for key in shown:
        assert client.image(run.images(key)[0]).startswith(b"\x89PNG"), key
