"""SAG against no guidance, the host's own SAG and its PAG: time per step, peak memory, and the recorder by itself.

`python -m tools.studies.sag.speed` writes output/bench/sag.json. Models: ShapesWorld as shipped, and SD1.5 and SDXL
with their real shapes and random weights, as large as memory allows. Methods take turns, so a busy machine hits all
alike.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...comfy.host import ROOT
from ...comfy.pack import load_packages
from .. import record

SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768, "num_heads": 8,
        "num_head_channels": -1, "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": False,
    },
    "sdxl": {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_heads": -1,
        "num_head_channels": 64, "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": True,
        "num_classes": "sequential", "adm_in_channels": 2816,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model at a size (pixels) and batch. repeats: turns of every method; steps: of a run."""

    model: str
    size: int
    batch: int
    steps: int
    repeats: int
    dtype: torch.dtype = torch.float32


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


def build(case: Case) -> Any:
    """The case's model in a ModelPatcher."""
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    from fovea.models.shapesworld import loader as demo_model

    if case.model == "shapesworld":
        return demo_model.load_model()
    device = comfy.model_management.get_torch_device()
    family = comfy.supported_models.SDXL if case.model == "sdxl" else comfy.supported_models.SD15
    settings = family({**SHAPES[case.model], "dtype": case.dtype})
    settings.unet_config.update({k: SHAPES[case.model][k] for k in ("num_heads", "num_head_channels")})
    make = comfy.model_base.SDXL if case.model == "sdxl" else comfy.model_base.BaseModel
    model = make(settings, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        if parameter.ndim < 2:
            parameter.data.fill_(0.5)
        else:
            parameter.data.uniform_(-1, 1, generator=generator).mul_(parameter[0].numel() ** -0.5)
    return comfy.model_patcher.ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def methods(model: Any) -> dict[str, Any]:
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    from fovea.nodes.sag import FoveaSelfAttentionGuidance

    def ours(**changes: Any) -> Any:
        settings = {
            "scale": 0.5, "blur_sigma": 2.0, "threshold": 1.0, "mask_mode": "threshold", "branch": "auto",
            "blocks": "auto", "start_percent": 0.0, "end_percent": 1.0, "every": 1, "rescale": 0.0, "kernel": "auto",
        }  # fmt: skip
        return FoveaSelfAttentionGuidance.execute(model, **{**settings, **changes}).result[0]

    return {
        "none": model,
        "ours": ours(),
        "ours, scale 0": ours(scale=0.0),
        "ours, every 2nd step": ours(every=2),
        "core SAG": SelfAttentionGuidance.execute(model, 0.5, 2.0).result[0],
        "core PAG": PerturbedAttentionGuidance.execute(model, 3.0).result[0],
    }


def run(patcher: Any, case: Case) -> None:
    """Sample `steps` steps at CFG 5 with random prompts."""
    import comfy.sample

    width = 256 if case.model == "shapesworld" else SHAPES[case.model]["context_dim"]

    def prompt(seed: int) -> list:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, 1280, generator=generator)
        return [[torch.randn(1, 77, width, generator=generator), {"pooled_output": pooled}]]

    latent = torch.zeros(case.batch, 4, case.size // 8, case.size // 8)
    noise = comfy.sample.prepare_noise(latent, 0)
    comfy.sample.sample(
        patcher, noise, case.steps, 5.0, "euler", "normal", prompt(1), prompt(2), latent, disable_pbar=True, seed=0
    )


def recorder(case: Case, model: Any, device: torch.device) -> dict[str, float]:
    """The recorder beside the host's attention with kept scores, on tensors of the middle block's shape."""
    from comfy_extras.nodes_sag import attention_basic_with_sim

    from fovea.attention.chunked_softmax import column_sums
    from fovea.attention.tensor_layout import split_heads

    from .. import meter

    network = model.model.diffusion_model
    layer = network.middle_block[1].transformer_blocks[0].attn1
    down = 2 ** (len(network.input_blocks) and sum(type(m[0]).__name__ == "Downsample" for m in network.input_blocks))
    tokens = (case.size // 8 // down) ** 2
    q, k, v = (torch.randn(2 * case.batch, tokens, layer.heads * layer.dim_head, device=device, dtype=case.dtype)
               for _ in range(3))  # fmt: skip

    def record() -> Any:  # both prompts' rows, as in a step
        return column_sums(split_heads(q, layer.heads, False), split_heads(k, layer.heads, False))

    def core() -> Any:
        return attention_basic_with_sim(q, k, v, layer.heads)

    record()
    return {
        "tokens": tokens,
        "seconds": statistics.median(meter.seconds(record, device) for _ in range(5)),
        "peak_bytes": meter.peak_bytes(record, device),
        "kept_bytes": 2 * case.batch * tokens * 4,
        "core_map_bytes": 2 * case.batch * layer.heads * tokens**2 * q.element_size(),
        "core_peak_bytes": meter.peak_bytes(core, device),
    }


def bench(case: Case, device: torch.device) -> dict[str, Any]:
    """All methods on one case: medians, spreads and ratios to no guidance."""
    from .. import meter

    model = build(case)
    patched = methods(model)
    if case.steps < 2:
        del patched["ours, every 2nd step"]
    times: dict[str, list[float]] = {name: [] for name in patched}
    run(model, case)  # warm-up: loading, first allocations
    for _ in tqdm(range(case.repeats), desc=f"{case.model} {case.size}"):
        for name, patcher in patched.items():
            times[name].append(meter.seconds(partial(run, patcher, case), device) / case.steps)
    peaks = {name: meter.peak_bytes(partial(run, patcher, case), device) for name, patcher in patched.items()}
    plain = statistics.median(times["none"])
    alone = recorder(case, model, device)
    rows = {
        name: {
            "seconds_per_step": round(statistics.median(values), 4),
            "spread": round((max(values) - min(values)) / statistics.median(values), 3),
            "ratio_to_none": round(statistics.median(values) / plain, 3),
            "peak_mib": round(peaks[name] / 2**20, 1),
        }
        for name, values in times.items()
    }
    result = {
        "model": case.model, "size": case.size, "batch": case.batch, "dtype": str(case.dtype).removeprefix("torch."),
        "steps": case.steps, "repeats": case.repeats, "methods": rows,
        "recorder": {
            **{k: round(v, 6) if k == "seconds" else v for k, v in alone.items()},
            "share_of_a_plain_step": round(alone["seconds"] / plain, 5),
            "peak_to_core_map": round(alone["peak_bytes"] / alone["core_map_bytes"], 4),
        },
    }  # fmt: skip
    del model, patched
    gc.collect()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["shapesworld", "sd15", "sdxl"])
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench")
    args = parser.parse_args()
    load_packages()
    import comfy.model_management

    torch.set_grad_enabled(False)
    device = comfy.model_management.get_torch_device()
    found = []
    args.out.mkdir(parents=True, exist_ok=True)
    for case in GPU_CASES if device.type == "cuda" else CPU_CASES:
        if case.model in args.models:
            found.append(bench(case, device))
            report = {**record.machine(device), "cases": found}
            (args.out / "sag.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
