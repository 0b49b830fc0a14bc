"""Steered attention against plain attention and against the published operator with its matrices written out.

`python -m tools.studies.regions.speed` writes output/bench/regions.json: per attention call; per sampling run with the
paper's window, and with the node's own method in every step (tools/studies/scaling has that by size); per picture of
the demo model with the node as it is, beside ComfyUI's own masks. All variants take turns in one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...comfy.host import ROOT
from .. import meter, record
from ..cases import Case, build
from ..demo_setup import DemoSetup
from ..processes import begin
from ..sampling import sample_latent
from . import layouts, methods, quality

CALLS = {"SD1.5, 512 pixels": (8, 4096, 40), "SDXL, 1024 pixels": (20, 1024, 64)}  # heads, tokens, channels per head
REGIONS = 4
PICTURES: dict[str, methods.Method] = {
    "without regions": methods.plain, "Dense Diffusion": methods.Nodes(),
    "Dense Diffusion, rest_strength 0": methods.Nodes(rest_strength=0.0), "ComfyUI's own masks": methods.masked,
}  # fmt: skip


def shares_of(tokens: int) -> Tensor:
    """Four quarters of a square picture and nothing left: [1, tokens, 4]."""
    side = int(tokens**0.5)
    y, x = torch.meshgrid(torch.arange(side) * 2 // side, torch.arange(side) * 2 // side, indexing="ij")
    return torch.nn.functional.one_hot((2 * y + x).flatten(), REGIONS)[None].float()


def naive(q: Tensor, k: Tensor, v: Tensor, pairs: Tensor, amount: Tensor) -> Tensor:
    """The operator as published: every term a matrix. q, k, v: [1, heads, tokens, dim]."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    up = scores.amax(-1, keepdim=True) - scores
    down = scores - scores.amin(-1, keepdim=True)
    scores = scores + amount[:, None, :, None] * (pairs * up - (1 - pairs) * down)
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def variants(heads: int, tokens: int, dim: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """One self-attention call of one prompt's rows, five ways."""
    from comfy.ldm.modules.attention import optimized_attention

    from fovea.guidance.regions import augmented_attention, score_bias
    from fovea.guidance.regions.score_bias import RegionBias
    from fovea.nodes.regions import METHODS

    q, k, v = (torch.randn(1, tokens, heads * dim, device=device) for _ in range(3))
    shares = shares_of(tokens).to(device)
    weights = score_bias.weigh(shares, torch.ones(REGIONS).to(device), shares.mean(1), 0.3, 1.0)
    amount = weights.sum(dim=-1)

    given = heads

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int | None = None) -> Tensor:
        return optimized_attention(q, k, v, heads or given)

    def ours(bias: RegionBias) -> Tensor:
        split_q, split_k = (augmented_attention.split_heads(t, heads, False) for t in (q, k))
        scores = score_bias.bias_scores(split_q, split_k, dim**-0.5, weights, shares, amount, bias)
        return augmented_attention.attend(q, k, v, False, heads, None, attention, scores)

    def published() -> Tensor:
        split_q, split_k, split_v = (augmented_attention.split_heads(t, heads, False) for t in (q, k, v))
        return naive(split_q, split_k, split_v, shares @ shares.mT, amount).transpose(1, 2).flatten(2)

    return {
        "plain": lambda: attention(q, k, v),
        "published": published,
        "ours": partial(ours, RegionBias()),
        "ours, every 8th key": partial(ours, RegionBias(key_stride=8)),
        "fovea": partial(ours, METHODS["fovea"].bias),
    }


def bench_call(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    found = variants(*CALLS[name], device)
    for work in found.values():
        work()
    times = meter.taking_turns(found, device, repeats, name)
    middle = {key: statistics.median(values) for key, values in times.items()}
    heads, tokens, dim = CALLS[name]
    inputs = 3 * heads * tokens * dim * 4
    peaks = {key: inputs + meter.peak_bytes(work, device) for key, work in found.items()}
    return {
        "call": name, "heads": heads, "tokens": tokens, "dim": dim, "repeats": repeats, "variants": {
            key: {
                "seconds": round(middle[key], 4), "spread": meter.spread(values),
                "to_plain": round(middle[key] / middle["plain"], 3),
                "to_published": round(middle[key] / middle["published"], 3),
                "peak_mib": meter.mib(peaks[key]), "peak_to_plain": round(peaks[key] / peaks["plain"], 3),
            }
            for key, values in times.items()
        },
    }  # fmt: skip


def bench_run(case: Case, device: torch.device) -> dict[str, Any]:
    """Whole sampling runs at CFG 5 with random prompts: plain, steered in the paper's window, and in every step."""
    from fovea.guidance.regions import model_patch
    from fovea.guidance.regions.control import RegionControl
    from fovea.guidance.regions.masks import Region, Regions
    from fovea.guidance.regions.prompt_regions import MARK, PromptRegions
    from fovea.guidance.regions.score_bias import RegionBias
    from fovea.nodes.regions import METHODS

    model = build(case)
    steered = model.clone()
    model_patch.install(steered)
    masks = shares_of(64 * 64)[0].T.reshape(REGIONS, 1, 64, 64)
    regions = Regions(tuple(Region(mask) for mask in masks))
    tokens, fovea = ((1, 2), (4, 5), (7, 8), (10, 11)), METHODS["fovea"]
    free = tuple(sorted({*range(77)} - {*itertools.chain(*tokens)}))
    paper = RegionControl(RegionBias(), 1.0, 0.3, 0.0, 0.3)
    always = RegionControl(replace(fovea.bias, free_weight=1.0), fovea.text, 0.3 * fovea.image)
    width = model.model.model_config.unet_config["context_dim"]

    def run(patcher: Any, control: RegionControl = paper) -> None:
        pooled = torch.zeros(1, 1280)
        found = PromptRegions(control, regions.canvas(), (1.0,) * REGIONS, tokens, 77, 77, free)
        positive = [[torch.randn(1, 77, width), {"pooled_output": pooled, MARK: found}]]
        negative = [[torch.randn(1, 77, width), {"pooled_output": pooled}]]
        sample_latent(patcher, positive, negative, case.latent, 0, case.steps, 5.0)

    run(model)
    runs = {
        "plain": partial(run, model), "steered": partial(run, steered), "every_step": partial(run, steered, always),
    }  # fmt: skip
    times = meter.taking_turns(runs, device, case.repeats, f"{case.model} {case.size}")
    plain, ours, every = (statistics.median(values) for values in times.values())
    return {
        "model": case.model, "size": case.size, "batch": case.batch, "steps": case.steps, "repeats": case.repeats,
        "seconds_plain": round(plain, 3), "seconds_steered": round(ours, 3), "ratio": round(ours / plain, 3),
        "seconds_every_step": round(every, 3), "ratio_every_step": round(every / plain, 3),
    }  # fmt: skip


def bench_pictures(out: Path, device: torch.device, repeats: int) -> dict[str, Any]:
    """A picture of two things in their boxes, encoded, sampled and decoded as the nodes' defaults have it."""
    drawn, wanted = quality.Layouts(out, DemoSetup()), layouts.layout("tune", 0)
    ways = {name: partial(drawn.picture, method, wanted, 0) for name, method in PICTURES.items()}
    for work in ways.values():
        work()
    times = meter.taking_turns(ways, device, repeats, "pictures")
    middle = {name: statistics.median(values) for name, values in times.items()}
    least = next(iter(middle.values()))
    return {
        "regions": len(wanted.masks), "form": wanted.form, "steps": quality.STEPS, "cfg": quality.CFG,
        "repeats": repeats, "ways": {
            name: {"seconds": round(middle[name], 3), "spread": meter.spread(values),
                   "ratio": round(middle[name] / least, 3)}
            for name, values in times.items()
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["shapesworld", "sd15"], help="of the sampling runs")
    parser.add_argument("--runs-only", action="store_true", help="no single calls at the sizes of SD1.5 and SDXL")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    args = parser.parse_args()
    device = begin()
    report: dict[str, Any] = {
        **record.machine(device),
        "calls": [bench_call(name, device, 5) for name in CALLS if not args.runs_only],
    }  # fmt: skip
    steps = 20 if device.type == "cuda" else 10
    cases = [Case("shapesworld", 256, 4, 20, 3), Case("sd15", 512, 1, steps, 1 if device.type == "cpu" else 3)]
    report["runs"] = [bench_run(case, device) for case in cases if case.model in args.models]
    if "shapesworld" in args.models:
        report["pictures"] = bench_pictures(args.out, device, 5)
    record.write(args.out / "regions.json", report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
