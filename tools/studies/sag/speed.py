"""SAG against no guidance, ComfyUI's own SAG and its PAG: time per step, peak memory, and the recorder by itself.

`python -m tools.studies.sag.speed` writes output/bench/sag.json. Models: ShapesWorld as shipped, and SD1.5 and SDXL
with their real shapes and random weights, as large as memory allows. Methods take turns, so a busy machine hits all
alike.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...comfy.host import ROOT
from .. import meter
from ..cases import MODELS, Case, build, measured, of_device
from ..processes import begin
from ..sampling import sample_latent

CPU_CASES = (
    Case("shapesworld", 256, 8, 4, 5),
    Case("sd15", 512, 1, 2, 3),
    Case("sdxl", 1024, 1, 1, 2, torch.bfloat16),
)
GPU_CASES = (
    Case("shapesworld", 256, 8, 10, 5),
    Case("sd15", 512, 1, 10, 5, torch.float16),
    Case("sdxl", 1024, 1, 10, 5, torch.float16),
    Case("sdxl", 2048, 1, 4, 3, torch.float16),
)


def methods(model: Any) -> dict[str, Any]:
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    from fovea.nodes.sag import FoveaSelfAttentionGuidance

    def ours(**changes: Any) -> Any:
        settings = {
            "scale": 0.5, "blur_sigma": 2.0, "threshold": 1.0, "mask_mode": "threshold", "guided_prompt": "auto",
            "blocks": "auto", "start_percent": 0.0, "end_percent": 1.0, "every_n_steps": 1, "rescale": 0.0,
            "blur_kernel": "auto",
        }  # fmt: skip
        return FoveaSelfAttentionGuidance.execute(model, **{**settings, **changes}).result[0]

    return {
        "none": model,
        "ours": ours(),
        "ours, scale 0": ours(scale=0.0),
        "ours, every 2nd step": ours(every_n_steps=2),
        "core SAG": SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0],
        "core PAG": PerturbedAttentionGuidance.execute(model, 3.0).result[0],
    }


def run(patcher: Any, case: Case) -> None:
    """Sample the case's steps at CFG 5 with random prompts."""
    sample_latent(patcher, case.prompt(1), case.prompt(2), case.latent, 0, case.steps, 5.0)


def recorder(case: Case, model: Any, device: torch.device) -> dict[str, float]:
    """The recorder beside ComfyUI's attention with kept scores, on tensors of the middle block's shape."""
    from comfy_extras.nodes_sag import attention_basic_with_sim

    from fovea.attention.chunked_softmax import column_sums
    from fovea.attention.tensor_layout import split_heads

    network = model.model.diffusion_model
    layer = network.middle_block[1].transformer_blocks[0].attn1
    down = 2 ** (len(network.input_blocks) and sum(type(m[0]).__name__ == "Downsample" for m in network.input_blocks))
    tokens = (case.size // 8 // down) ** 2
    q, k, v = (torch.randn(2 * case.batch, tokens, layer.heads * layer.dim_head, device=device, dtype=case.dtype)
               for _ in range(3))  # fmt: skip

    def ours() -> Any:  # both prompts' rows, as in a step
        return column_sums(split_heads(q, layer.heads, False), split_heads(k, layer.heads, False))

    def core() -> Any:
        return attention_basic_with_sim(q, k, v, layer.heads)

    ours()
    return {
        "tokens": tokens,
        "seconds": statistics.median(meter.seconds(ours, device) for _ in range(5)),
        "peak_bytes": meter.peak_bytes(ours, device),
        "kept_bytes": 2 * case.batch * tokens * 4,
        "core_map_bytes": 2 * case.batch * layer.heads * tokens**2 * q.element_size(),
        "core_peak_bytes": meter.peak_bytes(core, device),
    }


def bench(case: Case, device: torch.device) -> list[dict[str, Any]]:
    """All methods on one case: medians, spreads and ratios to no guidance."""
    model = build(case)
    patched = methods(model)
    if case.steps < 2:
        del patched["ours, every 2nd step"]
    runs = {name: partial(run, patcher, case) for name, patcher in patched.items()}
    run(model, case)  # warm-up: loading, first allocations
    times = meter.taking_turns(runs, device, case.repeats, f"{case.model} {case.size}")
    peaks = {name: meter.peak_bytes(work, device) for name, work in runs.items()}
    steps = {name: statistics.median(values) / case.steps for name, values in times.items()}
    alone = recorder(case, model, device)
    rows = {
        name: {
            "seconds_per_step": round(steps[name], 4), "spread": meter.spread(values),
            "ratio_to_none": round(steps[name] / steps["none"], 3), "peak_mib": meter.mib(peaks[name]),
        }
        for name, values in times.items()
    }  # fmt: skip
    return [{
        "model": case.model, "size": case.size, "batch": case.batch, "dtype": str(case.dtype).removeprefix("torch."),
        "steps": case.steps, "repeats": case.repeats, "methods": rows,
        "recorder": {
            **{k: round(v, 6) if k == "seconds" else v for k, v in alone.items()},
            "share_of_a_plain_step": round(alone["seconds"] / steps["none"], 5),
            "peak_to_core_map": round(alone["peak_bytes"] / alone["core_map_bytes"], 4),
        },
    }]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    args = parser.parse_args()
    device = begin()
    measured(args.out / "sag.json", of_device(device, CPU_CASES, GPU_CASES, args.models), bench, device)


if __name__ == "__main__":
    main()
