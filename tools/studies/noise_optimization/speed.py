"""What an update of a starting latent costs: exact by replay, exact by EDICT's inverse, past the model; with the whole
decoder and with a tiny one.

`python -m tools.studies.noise_optimization.speed` writes output/bench/latents.json. Models are those of
tools.studies.cases; decoders of Stable Diffusion's shape have random weights; the scorer is a ViT-B/32. Cases take
turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...comfy.host import ROOT
from .. import meter
from ..cases import MODELS, Case, build, measured, of_device
from ..processes import begin

CPU_CASES = (Case("shapesworld", 256, 1, 5, 3), Case("shapesworld", 256, 1, 50, 1), Case("sd15", 256, 1, 2, 2))
GPU_CASES = (
    Case("shapesworld", 256, 1, 5, 3), Case("shapesworld", 256, 1, 50, 1),
    Case("sd15", 512, 1, 5, 3, torch.float16), Case("sd15", 512, 1, 20, 2, torch.float16),
    Case("sdxl", 1024, 1, 5, 2, torch.float16), Case("sdxl", 1024, 1, 20, 1, torch.float16),
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    mode: str = "checkpoint"
    backprop_steps: int | None = None
    tiny: bool = False


WAYS = {
    "checkpoint": Way(), "invertible": Way("invertible"), "past the model": Way(backprop_steps=0),
    "checkpoint, tiny decoder": Way(tiny=True),
}  # fmt: skip


def decoders(case: Case) -> dict[bool, Any]:
    """The whole decoder and a tiny one, as ComfyUI loads them; ShapesWorld has its own."""
    import comfy.ldm.models.autoencoder
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    from fovea.models.shapesworld import loader as demo_model

    if case.model == "shapesworld":
        return {False: demo_model.load_vae()}
    settings = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
                "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    whole = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=settings, embed_dim=4)
    small = TAESD()
    for network in (whole, small):
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter.data.fill_(0.5)
            else:
                parameter.data.normal_(0, parameter[0].numel() ** -0.5)
    return {
        False: comfy.sd.VAE(sd=whole.state_dict()),
        True: comfy.sd.VAE(sd=small.state_dict()),
    }


def scorer(case: Case) -> Any:
    """The papers' CLIP with random weights; ShapesWorld's own."""
    import open_clip

    from fovea.models.scorers import comfy_clip
    from fovea.models.scorers import open_clip as open_clip_files
    from fovea.models.shapesworld import loader as demo_model

    if case.model == "shapesworld":
        return demo_model.load_scorer()
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    return open_clip_files.OpenClipScorer(
        "ViT-B-32", 224, 77, comfy_clip.patched(model), open_clip.get_tokenizer("ViT-B-32")
    )  # fmt: skip


def works(case: Case) -> tuple[Callable[[], Any], dict[str, Callable[[int], Any]]]:
    """Plain sampling with decoding and scoring, and every way with that many iterations."""
    import comfy.sample
    import comfy.samplers

    from fovea.guidance.noise_optimization.config import OptimizationConfig
    from fovea.guidance.noise_optimization.losses import SalientLoss
    from fovea.guidance.noise_optimization.noise_sampler import SamplingInputs, best_of_n, optimize_noise
    from fovea.guidance.noise_optimization.search import Limits
    from fovea.guidance.noise_optimization.update_rules import Spherical

    model, judge, vaes = build(case), scorer(case), decoders(case)

    def inputs(tiny: bool) -> SamplingInputs:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", case.steps)
        noise = comfy.sample.prepare_noise(case.latent, 0)
        return SamplingInputs(model, vaes[tiny], case.prompt(1), case.prompt(2), 5.0, noise, case.latent, sigmas, 0)

    def config(way: Way, iterations: int) -> OptimizationConfig:
        loss = SalientLoss(weight=0.0)
        return OptimizationConfig(
            judge, "a red star", loss, Spherical(), Limits(iterations), mode=way.mode, backprop_steps=way.backprop_steps
        )

    def moved(way: Way, iterations: int) -> Any:
        return optimize_noise(inputs(way.tiny), config(way, iterations))

    chosen: dict[str, Callable[[int], Any]] = {
        name: partial(moved, way) for name, way in WAYS.items() if way.tiny in vaes
    }
    return lambda: best_of_n(inputs(False), config(Way(), 0)), chosen


def bench(case: Case, device: torch.device) -> list[dict[str, Any]]:
    plain, ways = works(case)
    plain()  # warm-up: loading, first allocations
    label = f"{case.model} {case.size}, {case.steps} steps"
    runs: dict[Any, Callable[[], Any]] = {"plain": plain}
    for name, work in ways.items():
        runs |= {(name, iterations): partial(work, iterations) for iterations in (2, 1)}
    times = meter.taking_turns(runs, device, case.repeats, label)
    base = statistics.median(times["plain"])
    # An update, and nothing but it: two of them less one.
    update = {name: statistics.median(np.subtract(times[name, 2], times[name, 1]).tolist()) for name in ways}
    return [
        {
            "model": case.model, "size": case.size, "batch": case.batch, "steps": case.steps, "mode": name,
            "dtype": str(case.dtype).removeprefix("torch."), "seconds": round(update[name], 3),
            "to_sampling": round(update[name] / base, 2),
            "peak_mib": meter.mib(meter.peak_bytes(partial(work, 1), device)),
        }
        for name, work in ways.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--most-steps", type=int, default=1000, help="leave longer samplings out")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    args = parser.parse_args()
    device = begin()
    cases = [case for case in of_device(device, CPU_CASES, GPU_CASES, args.models) if case.steps <= args.most_steps]
    measured(args.out / "latents.json", cases, bench, device)


if __name__ == "__main__":
    main()
