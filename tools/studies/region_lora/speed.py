"""A step with two LoRAs in two halves against a plain one, and against ComfyUI's own masked LoRA hooks.

`python -m tools.studies.region_lora.speed` writes output/bench/region_lora.json. LoRAs of rank 16 for every linear
layer of the transformers, as most are made. All variants take turns in one run.
"""

from __future__ import annotations

import argparse
import re
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...comfy.host import ROOT
from .. import meter
from ..cases import Case, build, measured, of_device
from ..processes import begin
from ..sampling import sample_latent

RANK = 16
LAYERS = re.compile(r".*(transformer_blocks|proj_in|proj_out)")
CPU = (Case("shapesworld", 256, 4, 5, 7), Case("sd15", 512, 1, 1, 3), Case("sdxl", 512, 1, 1, 3))
GPU = tuple(Case(model, size, 1, 10, 5, torch.float16) for model, size in (("sd15", 512), ("sdxl", 1024)))


def file_for(model: Any, seed: int) -> dict[str, Tensor]:
    """A random LoRA of a model."""
    generator = torch.Generator().manual_seed(seed)
    file: dict[str, Tensor] = {}
    for name, layer in model.model.diffusion_model.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and LAYERS.match(name):
            out, into, *kernel = layer.weight.shape
            down = torch.randn(RANK, into, *kernel, generator=generator) / into**0.5
            up = torch.randn(out, RANK, *[1] * len(kernel), generator=generator) / 100
            file |= {f"diffusion_model.{name}.lora_down.weight": down, f"diffusion_model.{name}.lora_up.weight": up}
    return file


def bench(case: Case, device: torch.device) -> list[dict[str, Any]]:
    from fovea.guidance.region_lora import model_patch
    from fovea.guidance.regions.masks import Lora, Region, Regions

    model = build(case)
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    loras = [Lora(f"LoRA {seed}", file_for(model, seed), 1.0, 0.0) for seed in (1, 2)]
    regions = Regions(tuple(Region(mask, loras=(lora,)) for mask, lora in zip((left, 1 - left), loras)))
    ours = model.clone()
    model_patch.install(ours, regions)
    plain = (case.prompt(1), case.prompt(2))
    hooked = [[[features, {**options, "mask": region.mask, "mask_strength": 1.0, "hooks": model_patch.hooks_of(region)}]
               for region in regions.items for features, options in prompt] for prompt in plain]  # fmt: skip

    def run(patcher: Any, positive: list, negative: list) -> Tensor:
        return sample_latent(patcher, positive, negative, case.latent, 0, case.steps, 5.0)

    runs = {"plain": partial(run, model, *plain), "region_lora": partial(run, ours, *plain),
            "masked_hooks": partial(run, model, *hooked)}  # fmt: skip
    for work in runs.values():
        work()
    times = meter.taking_turns(runs, device, case.repeats, f"{case.model} {case.size}")
    middle = {name: statistics.median(values) for name, values in times.items()}
    peaks = {name: meter.peak_bytes(work, device) for name, work in runs.items()}
    return [{
        "model": case.model, "size": case.size, "batch": case.batch, "steps": case.steps, "repeats": case.repeats,
        "seconds_plain": round(middle["plain"], 3), "spread": meter.spread(times["plain"]),
        "ratio": round(middle["region_lora"] / middle["plain"], 3),
        "ratio_masked_hooks": round(middle["masked_hooks"] / middle["plain"], 3),
        "peak_mib_plain": meter.mib(peaks["plain"]), "peak_more_mib": meter.mib(peaks["region_lora"] - peaks["plain"]),
    }]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["shapesworld", "sd15", "sdxl"])
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    args = parser.parse_args()
    device = begin()
    measured(args.out / "region_lora.json", of_device(device, CPU, GPU, args.models), bench, device)


if __name__ == "__main__":
    main()
