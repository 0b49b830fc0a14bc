"""The flow transformer: it predicts velocity on latents and reads the tokens of CLIP A, which often tell places.

What makes few pictures go a long way on a CPU: the middle of the network is aligned with what is painted where (REPA,
arXiv 2410.06940, with the painter's own class maps in place of an encoder's features), matrices are optimized by
Muon, batches are small and drawn one noise level per stratum, and for most of the time the target is what the shipped
UNet makes of the same noisy latent: its mean in place of one picture that might be in it, so that small things such as
shapes are not drowned by chance. Words for places are rows of their own, appended to CLIP
A's frozen table: the frozen tower carries them to the transformer, and no second text encoder has to be trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import words
from .data import Dataset
from .stages import Run, Trainer, initialize
from .train_experts import base
from .train_unet import EMPTY_CAPTIONS, clean, encoded_pictures, shipped_tower
from .train_unet import contexts as unet_contexts
from .world import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    N_CLASSES,
    N_OBJECT_CLASSES,
    PLACES,
    RELATIONS,
    SHAPES,
    caption,
    placed_caption,
)

BATCH = 16
PLACED_CAPTIONS = 0.5
RATE = 2e-3
UNIFORM_LEVELS = 0.1  # of the noise levels: the logit-normal ones almost never reach the ends
ALIGNED_LAYER, ALIGNED_WEIGHT = 2, 0.2
SIDE = 16  # tokens along a side of a picture
TAUGHT = 0.85  # of the time; then pictures alone, which know better where the UNet is wrong
# Up to which noise level. The UNet's own end; with a place in the caption, of which it cannot read: where it sees it.
TAUGHT_TO, TAUGHT_PLACED_TO = 0.93, 0.6
FACTORS = (len(COLOUR_NAMES), len(SHAPES), len(BACKGROUND_NAMES))


class Network(nn.Module):
    """The transformer, the rows of its own words, and the head that tells from its middle what is where."""

    def __init__(self) -> None:
        super().__init__()
        from fovea.models.shapesworld import generator, transformer

        self.dit = transformer.network()
        self.places = nn.Embedding(len(words.place_ids()), generator.TEXT_CONFIG["hidden_size"])
        self.layout = nn.Sequential(nn.LayerNorm(transformer.CONFIG["dim"]),
                                    nn.Linear(transformer.CONFIG["dim"], sum(FACTORS)))  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents [B, 4, 32, 32], noise levels [B], text [B, N, 256] -> velocity like x, layout [B, 256, 18]."""
        seen: list[Tensor] = []

        def keep(args: dict[str, Any]) -> dict[str, Any]:
            if args["block_index"] == ALIGNED_LAYER:
                seen.append(args["img"])
            return {}

        velocity = self.dit(x, t, context, context.shape[1], transformer_options={"patches": {"double_block": [keep]}})
        return velocity, self.layout(seen[0])


class Optimizers:
    """Several as one: what Trainer asks of an optimizer."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, told in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(told)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def optimizers(model: Network) -> Optimizers:
    """Muon for what multiplies tokens inside of blocks, AdamW for the rest; both take a rate of AdamW's size."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("dit.") and _inner(name)]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return Optimizers([
        torch.optim.Muon(inner, RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, RATE, betas=(0.9, 0.99), weight_decay=0.0),
    ])  # fmt: skip


def _inner(name: str) -> bool:
    return ".attention." in name or ".feed_forward." in name


def build(seed: int) -> Network:
    """With closed gates and a silent end, so that it starts as the identity; norms at one."""
    model = Network()
    initialize(model, seed)
    for name, p in model.named_parameters():
        if "norm" in name or name == "dit.cap_embedder.0.weight":
            nn.init.constant_(p, float(name.endswith("weight")))
        elif "adaLN_modulation" in name or name.startswith("dit.final_layer.linear"):
            nn.init.zeros_(p)
    return model


def noise_levels(count: int, shift: float) -> Tensor:
    """Levels [count] in 0..1, logit-normal and shifted as sampling shifts them, one draw per stratum; some uniform.
    Never 0, where a teacher's velocity is 0 / 0."""
    u = (torch.arange(count) + torch.rand(count)) / count
    t = torch.sigmoid(torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))
    t = torch.where(torch.rand(count) < UNIFORM_LEVELS, torch.rand(count).clamp(min=1e-4), t)
    return shift * t / (1 + (shift - 1) * t)


def contexts(tower: nn.ModuleDict, places: nn.Embedding, captions: list[str], device: torch.device) -> Tensor:
    """What ComfyUI gives the transformer for these captions, [B, 48, 256]; gradients reach the words for places."""
    from fovea.models.shapesworld import evaluators, transformer

    ids = np.stack([words.encode(c)[: transformer.TOKENS] for c in captions])
    rows = torch.from_numpy(words.placed_rows(ids)).to(device)
    table = torch.cat([tower["table"].weight, places.weight])
    hidden, _ = evaluators.clip_a_text_forward(tower["text"], table[rows], torch.from_numpy(words.ends(ids)).to(device))
    return hidden


PLACE = re.compile("|".join(f" {name}" for name in sorted((n for row in PLACES for n in row), key=len, reverse=True)))
RELATION = re.compile("|".join(f" {name} " for name in RELATIONS))


def unplaced(text: str) -> str:
    """A caption without its words for places, in the grammar of those that never had any."""
    plain = PLACE.sub("", text)
    return RELATION.sub(lambda found: ", " if " and " in plain[found.end() :] else " and ", plain)


class Teacher:
    """The shipped UNet, frozen, as a flow model: noisy latents are those of its own schedule, but for their scale."""

    def __init__(self, run: Run, tower: nn.ModuleDict) -> None:
        from comfy.model_sampling import ModelSamplingDiscrete

        from fovea.models.shapesworld import generator

        unet = generator.unet()
        unet.load_state_dict(base())
        unet = unet.to(run.device).eval().requires_grad_(False)
        self.forward, self.tower, self.device = torch.compile(unet) if run.compiled else unet, tower, run.device
        self.schedule = ModelSamplingDiscrete()

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor, captions: list[str]) -> Tensor:
        """Of noisy latents [B, 4, 32, 32] at levels [B], up to TAUGHT_TO."""
        signal, noise = (1 - t).view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)
        root = (signal**2 + noise**2).sqrt()
        context = unet_contexts(self.tower, [unplaced(text) for text in captions], self.device)
        v = self.forward(x / root, self.schedule.timestep(t / (1 - t)), context).float()
        denoised = (signal * x / root - noise * v) / root
        return (x - denoised) / noise


def taught(t: Tensor, captions: list[str]) -> Tensor:
    """Whose target is the teacher's: [B] of bool."""
    placed = torch.tensor([unplaced(text) != text for text in captions], device=t.device)
    return t <= torch.where(placed, TAUGHT_PLACED_TO, TAUGHT_TO)


def shares(labels: np.ndarray) -> Tensor:
    """Class maps [B, 128, 128] -> the share of every class in every token, [B, 256, 52]."""
    batch, side = labels.shape[0], labels.shape[1] // SIDE
    token = np.arange(SIDE).repeat(side)
    cell = (np.arange(batch)[:, None, None] * SIDE + token[:, None]) * SIDE + token
    counts = np.bincount((cell * N_CLASSES + labels).ravel(), minlength=batch * SIDE * SIDE * N_CLASSES)
    return torch.from_numpy(counts.reshape(batch, SIDE * SIDE, N_CLASSES) / side**2).float()


def layout_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the factors [B, 256, 18] with shares of joint classes [B, 256, 52]; objects weigh double."""
    color, shape, background = logits.split(FACTORS, dim=-1)
    total = torch.logaddexp(color.logsumexp(-1) + shape.logsumexp(-1), background.logsumexp(-1))
    objects = wanted[..., :N_OBJECT_CLASSES].unflatten(-1, FACTORS[:2])
    own = (color * objects.sum(-1)).sum(-1) + (shape * objects.sum(-2)).sum(-1)
    own = own + (background * wanted[..., N_OBJECT_CLASSES:]).sum(-1)
    weight = 1 + objects.sum((-1, -2))
    return ((total - own) * weight).sum() / weight.sum()


def wording(data: Dataset, index: Iterable[int], rng: np.random.Generator) -> list[str]:
    """Captions of these pictures: a tenth empty, half of the others with places."""
    said = []
    for i in index:
        if rng.random() < EMPTY_CAPTIONS:
            said.append("")
        else:
            said.append((placed_caption if rng.random() < PLACED_CAPTIONS else caption)(data.scenes[i], rng))
    return said


def train(run: Run, data: Dataset) -> None:
    import comfy.model_management

    from fovea.models.shapesworld import transformer

    comfy.model_management.in_training = True  # or norms and rotations take a path without gradients
    model = build(run.seed + 8).to(run.device)
    latents, scale, drawn = encoded_pictures(run, data)
    tower = shipped_tower(run)  # its table is only added to
    trainer = Trainer(run, nn.ModuleDict({"network": model}), RATE, 0.9995, optimizer=optimizers(model))
    forward, teacher = torch.compile(model) if run.compiled else model, Teacher(run, tower)
    rng = np.random.default_rng(run.seed + 43 + trainer.step)
    average: np.ndarray | None = None
    for step in trainer.steps():
        index = rng.choice(len(latents), size=BATCH, p=drawn)
        x0 = clean(latents, index, run.device) * scale
        t = noise_levels(BATCH, transformer.SHIFT).to(run.device)
        noise, level = torch.randn_like(x0), t.view(-1, 1, 1, 1)
        noisy, target, captions = x0 + level * (noise - x0), noise - x0, wording(data, index, rng)
        with torch.autocast(run.device.type, torch.bfloat16):
            if run.fraction() < TAUGHT:
                told = teacher.velocity(noisy, t.clamp(max=TAUGHT_TO), captions)
                target = torch.where(taught(t, captions).view(-1, 1, 1, 1), told, target)
            context = contexts(tower, model.places, captions, run.device)
            velocity, layout = forward(noisy, t, context)
        loss = (velocity.float() - target).square().mean()
        aligned = layout_loss(layout.float(), shares(np.stack([data.labels[i] for i in index])).to(run.device))
        trainer.backward(loss + ALIGNED_WEIGHT * aligned)
        now = np.array([loss.item(), aligned.item()])
        average = now if average is None else 0.98 * average + 0.02 * now
        if step % 50 == 0:
            kept = {"loss": round(float(average[0]), 5), "layout": round(float(average[1]), 5)}
            run.log(step=step, samples=(step + 1) * BATCH, **kept)
