"""Experts for the generator, as eDiff-I's tree grows them (arXiv 2211.01324): each starts from the model before it was
split and is trained on its own share of the noise only.

The control sees all noise for the time of both halves' experts together: whether experts help is measured against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .data import Dataset
from .shipped_weights import DEMO, base_hash, training_state
from .stages import Run, finished
from .train_unet import STEPS, fit, read_by, shipped_tower

RANK = 6  # of what ships of an expert
SPLIT, TOP = 660, 841  # half and a quarter of the generator's training draws lie above
RATE = 0.3  # of the generator's learning rate


@dataclass(frozen=True)
class Expert:
    """low, high: the timesteps that it sees. share: of the stage's minutes. parent: another, from which it starts."""

    low: int
    high: int
    share: float
    parent: str | None = None


EXPERTS = {
    "expert_high": Expert(SPLIT, STEPS, 2 / 9),
    "expert_low": Expert(0, SPLIT, 2 / 9),
    "expert_control": Expert(0, STEPS, 4 / 9),
    "expert_top": Expert(TOP, STEPS, 1 / 9, "expert_high"),  # a level deeper, where the paper's tree goes on
}


def levels(low: int, high: int, count: int) -> Tensor:
    """Timesteps [count] of the generator's own distribution, cut to [low, high): one draw per stratum."""
    first, last = (low / STEPS) ** (1 / 0.6), (high / STEPS) ** (1 / 0.6)
    u = first + (last - first) * (torch.arange(count) + torch.rand(count)) / count
    return (u**0.6 * STEPS).long().clamp(low, high - 1)


def base() -> dict[str, Tensor]:
    """The shipped generator's weights, fp32."""
    return {key.removeprefix("unet."): value for key, value in training_state(DEMO, "unet").items()}


def trained(work: Path, name: str) -> dict[str, Tensor]:
    """A trained part's averaged weights under the generator's names."""
    state = finished(work, name, base_hash())
    return {key.removeprefix("unet."): value.float() for key, value in state.items()}


def train(run: Run, data: Dataset) -> None:
    """All of them, one after the other."""
    from fovea.models.shapesworld import generator

    condition = read_by(shipped_tower(run), run.device)
    for name, expert in EXPERTS.items():
        torch.manual_seed(run.seed + 7)
        model = generator.unet().requires_grad_(True)
        model.load_state_dict(trained(run.work, expert.parent) if expert.parent else base())
        part = run.part(name, expert.share, rate=RATE)
        fit(part, data, nn.ModuleDict({"unet": model}), partial(levels, expert.low, expert.high), 0.99, condition)


def lora(work: Path, name: str, rank: int = RANK) -> dict[str, Tensor]:
    """The change of a trained expert under the names that ComfyUI's LoRA loader reads, fp16: matrices and convolutions
    by their largest singular values, biases and norms as they are."""
    after, out = trained(work, name), {}
    for key, weight in base().items():
        change = after[key] - weight
        layer, kind = f"diffusion_model.{key}".rsplit(".", 1)
        if change.ndim == 1:
            out[f"{layer}.{'diff' if kind == 'weight' else 'diff_b'}"] = change.half()
            continue
        u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
        root = s[:rank].sqrt()
        out[f"{layer}.lora_up.weight"] = (u[:, :rank] * root).half().contiguous()
        out[f"{layer}.lora_down.weight"] = (root[:, None] * v[:rank]).half().contiguous()
    return out
