"""A low-rank change of the generator that teaches it to follow regions: attention tells it where things are in half of
the noisy samples, so that it learns to listen.

Captions of this world name no places, so the generator learned to read places from the noise and to use attention for
what is there, not where (docs/techniques/regions.md). Here the attention of some samples is steered to the true places
while the change learns. How it is steered is drawn anew in every step, and places are jittered, so that no one method
is what was trained. The sham sees the same pictures for as long, unsteered: what steering gave is told against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import words
from .data import SMALL, Dataset
from .stages import Run
from .train_lora import generator_with_change
from .train_unet import STEPS, contexts, fit, noise_levels, shipped_tower
from .world import SIZE, Scene, Thing

BATCH = 16
RATE = 1.0  # of the generator's learning rate
PARTS = {"steered": 0.5, "steered_sham": 0.0}  # how many of the samples above FROM are steered
FROM = 500  # timesteps
MOST = 4  # objects
LEFT_OUT = 0.15  # of the regions


@dataclass(frozen=True)
class Operator:
    """One way to steer. text, image: strengths. exponent: how fast they fall with the noise."""

    bias: Any
    text: float
    image: float
    exponent: float


def operator(rng: np.random.Generator) -> Operator:
    """Any of the family that regions are told by: as published, matching words up, others down, nothing but its own."""
    from fovea.guidance.regions.score_bias import RegionBias

    kind, unit = rng.choice(["published", "up", "contrast", "hard"]), rng.choice(["range", "row max", "row std"])
    spreads = 5.0 if unit == "row std" else 1.0  # in a range
    text, image = (spreads * np.exp(rng.uniform(np.log(low), np.log(4.0))) for low in (0.3, 0.1))
    bias = {
        "published": RegionBias(unit),
        "up": RegionBias(unit, temperature=0.0, area_weight=0.0, background=False),
        "contrast": RegionBias(unit, 0.0, 0.0, False, outside_weight=rng.uniform(0.2, 1.0)),
        "hard": RegionBias("hard", 0.0, 0.0, False),
    }[kind]  # fmt: skip
    image *= kind != "hard" or rng.random() < 0.5
    return Operator(bias, float(text), float(image), rng.uniform(0.0, 3.0))


def mask(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """A box or an ellipse of about the object's size around about its place, [128, 128]."""
    y, x = (np.mgrid[:SMALL, :SMALL] + 0.5) * (SIZE / SMALL)
    dx, dy = (axis - at - thing.radius * rng.uniform(-0.2, 0.2) for axis, at in ((x, thing.x), (y, thing.y)))
    width, height = thing.radius * rng.uniform(0.7, 1.3, 2)
    if rng.random() < 0.5:
        return (np.abs(dx) < width) & (np.abs(dy) < height)
    return np.hypot(dx / width, dy / height) < 1


def phrase(ids: np.ndarray, thing: Thing) -> list[int]:
    """Where a caption's tokens name an object: its article, texture, color and shape; [] where it does not."""
    told = [*words.word_ids(thing.color), *words.word_ids(thing.shape)]
    found = ids.tolist()
    for at in range(len(found) - len(told)):
        if found[at : at + len(told)] == told:
            textured = found[at - 1] in words.word_ids(thing.texture)
            return list(range(at - 1 - textured, at + len(told)))
    return []


@dataclass
class Layouts:
    """The regions of a batch. masks: [batch, 4, 128, 128]. words: whose each token is, [batch, 77, 4]."""

    masks: Tensor
    words: Tensor

    def to(self, device: torch.device) -> Layouts:
        return Layouts(self.masks.to(device), self.words.to(device))


def layouts(scenes: list[Scene], captions: list[str], rng: np.random.Generator) -> Layouts:
    """A region for most objects that a caption names."""
    masks = np.zeros((len(scenes), MOST, SMALL, SMALL), np.float32)
    owned = np.zeros((len(scenes), words.LENGTH, MOST), np.float32)
    for i, (scene, text) in enumerate(zip(scenes, captions, strict=True)):
        ids = words.encode(text)
        for region, thing in enumerate(scene.things):
            places = phrase(ids, thing)
            if places and rng.random() >= LEFT_OUT:
                masks[i, region], owned[i, places, region] = mask(thing, rng), 1
    return Layouts(torch.from_numpy(masks), torch.from_numpy(owned))


def patches(network: nn.Module, given: Layouts, how: Operator, strengths: Tensor) -> dict[str, Any]:
    """transformer_options that steer every attention layer of the network. strengths: [batch], 0 for those that are
    left alone."""
    from fovea.attention.families.unet import UNetFamily

    blocks = [(block.section, block.number) for block in UNetFamily().blocks(network)]
    ways = {"attn1": partial(attend, given, how, strengths, None),
            "attn2": partial(attend, given, how, strengths, given.words)}  # fmt: skip
    return {"patches_replace": {name: dict.fromkeys(blocks, way) for name, way in ways.items()}}


def attend(
    given: Layouts, how: Operator, strengths: Tensor, owned: Tensor | None, q: Tensor, k: Tensor, v: Tensor,
    options: dict[str, Any],
) -> Tensor:  # fmt: skip
    """An attention call, its scores written out. owned: whose each word is; None: keys are places of the picture."""
    from fovea.guidance.regions import score_bias

    q, k, v = (rearrange(each, "b n (h d) -> b h n d", h=options["n_heads"]) for each in (q, k, v))
    scale, bias = q.shape[-1] ** -0.5, how.bias
    shares = F.adaptive_avg_pool2d(given.masks, options["activations_shape"][2:]).flatten(2).mT
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1)  # jittered places may overlap
    covered = shares.mean(1)
    sides = bias.background or (owned is not None and bias.outside_weight > 0)
    if sides:
        covered, weighed = score_bias.with_background(covered), score_bias.with_background(shares)
    else:
        weighed = shares
    # Without a weight outside, the background has no words to lift.
    if owned is not None:
        keys = score_bias.word_factors(owned, bias.outside_weight)
    else:
        keys = score_bias.with_background(shares) if bias.background else shares
    strength = (how.image if owned is None else how.text) * strengths[:, None, None]
    weights = strength * score_bias.weigh(weighed, weighed.new_ones(weighed.shape[-1]), covered, 1.0, bias.area_weight)
    columns = min(weights.shape[-1], keys.shape[-1])
    with torch.no_grad():  # how far scores are moved is no way to learn
        moved = score_bias.bias_scores(
            q, k, scale, weights[..., :columns], keys[..., :columns], weights.sum(-1), bias
        )  # fmt: skip
    scores = q @ k.mT * scale
    if moved.scale is not None:
        scores = scores * moved.scale[..., None]
    scores = scores + moved.query_factor @ moved.key_factor[:, None].mT
    return rearrange(scores.softmax(-1).to(v) @ v, "b h n d -> b n (h d)")


def train(run: Run, data: Dataset) -> None:
    """The change and its sham, one after the other."""
    tower = shipped_tower(run)
    for part, share in PARTS.items():
        torch.manual_seed(run.seed + 10)
        modules = nn.ModuleDict({"unet": generator_with_change()})
        own = run.part(part, 1 / len(PARTS), rate=RATE, compiled=False)
        fit(own, data, modules, noise_levels, 0.99, _steered(tower, modules["unet"], data, share, run), batch=BATCH,
            warm_up=30)  # fmt: skip


def _steered(tower: nn.ModuleDict, network: nn.Module, data: Dataset, share: float, run: Run) -> Callable[..., Any]:
    """What `fit` gives the generator: CLIP A's tokens, and attention steered for a share of the noisy samples."""

    def condition(captions: list[str], index: np.ndarray, t: Tensor, rng: np.random.Generator) -> dict[str, Any]:
        how = operator(rng)
        chosen = torch.from_numpy(rng.random(len(index)) < share).to(t.device) & (t >= FROM)
        given = layouts([data.scenes[i] for i in index], captions, rng).to(t.device)
        options = patches(network, given, how, chosen * (t / STEPS) ** how.exponent)
        return {"context": contexts(tower, captions, run.device), "transformer_options": options}

    return condition
