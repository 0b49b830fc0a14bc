"""Every technique of the pack on one model, as its node runs it: for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import lora_files as files
import tiny_models as tiny
import torch
from comfy.ldm.modules import attention
from torch import Tensor

from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.masks import Region, Regions
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.attention_map import FoveaAttentionMap
from fovea.nodes.clip_guidance import FoveaCLIPGuidance
from fovea.nodes.experts import FoveaExpert, FoveaExpertSwitch
from fovea.nodes.noise_optimization import FoveaBestOfN, FoveaOptimizeLatent
from fovea.nodes.region_lora import FoveaRegionLora
from fovea.nodes.region_start import FoveaRegionStart
from fovea.nodes.regions import FoveaDenseDiffusion, FoveaPaintWithWords
from fovea.nodes.sag import FoveaSelfAttentionGuidance
from fovea.nodes.style import FoveaStyleGuidance
from tools.comfy.node_values import arguments

PROMPT = "a plain red star and a striped blue circle on a white background"
STEPS = 2
LONG_STEPS = {"steps": 4, "scheduler": "simple"}
BACKENDS = ("attention_pytorch", "attention_split", "attention_sub_quad", "attention_basic")
# Those that ComfyUI does not take by itself here: on a CPU that is attention_sub_quad.
OTHERS = [name for name in BACKENDS if getattr(attention, name) is not attention.optimized_attention]


class World(NamedTuple):
    """What nodes are given beside the model. start: noise and what is drawn on, [n, channels, height, width].
    large: the same for techniques that find nothing to choose in a small one, where start is small."""

    clip: Any
    vae: Any
    scorer: Any
    positive: list
    negative: list
    styled: list
    start: Tensor
    large: Tensor | None = None


def shapesworld(side: int = 32) -> World:
    """Everything as the server makes it. side: of the latents; half of what the model was trained on is quicker."""
    with torch.inference_mode():
        clip = demo_model.load_clip()
        positive, negative, styled = (
            prompt_encoding.encode(clip, text) for text in (PROMPT, "", "a plain green square")
        )
        start, large = (
            torch.randn(1, 4, each, each, generator=torch.Generator().manual_seed(3)) for each in (side, 32)
        )
        vae, scorer = demo_model.load_vae(), demo_model.load_scorer(clip)
        return World(clip, vae, scorer, positive, negative, styled, start, large)


def outputs(node: Any, **given: Any) -> tuple:
    """A node's outputs; inputs that are not given have the values that the node shows first."""
    return node.execute(**arguments(node, **given)).result


def sample(
    model: Any, world: World, positive: list | None = None, negative: list | None = None, **settings: Any
) -> Tensor:
    conds = {"positive": positive or world.positive, "negative": negative or world.negative}
    return tiny.sample(model, world.start, **{"cfg": 4.0, "steps": STEPS, **settings}, **conds)


def halves(height: int = 32, width: int = 32) -> Regions:
    left = torch.zeros(1, height, width)
    left[..., : width // 2] = 1
    return Regions((Region(left, "a plain red star"), Region(1 - left, "a striped blue circle")))


def plain(model: Any, world: World) -> Tensor:
    return sample(model, world)


def sag(model: Any, world: World) -> Tensor:
    return sample(*outputs(FoveaSelfAttentionGuidance, model=model), world)


def regions(model: Any, world: World) -> Tensor:
    given = {"model": model, "clip": world.clip, "regions": halves(), "prompt": PROMPT}
    patched, positive, negative, *_ = outputs(FoveaDenseDiffusion, **given)
    return sample(patched, world, positive, negative)


def region_lora(model: Any, world: World) -> Tensor:
    left, right = halves().items
    regions = Regions((files.region(left.mask, files.weights(model, 5), 0.5), right))
    return sample(outputs(FoveaRegionLora, model=model, regions=regions)[0], world)


def region_start(model: Any, world: World) -> Tensor:
    given = {"regions": halves(), "background": PROMPT, "vae": world.vae}
    return sample(outputs(FoveaRegionStart, model=model, **given)[0], world)


def arranged(model: Any, world: World) -> Tensor:
    given = {"model": model, "clip": world.clip, "regions": halves(), "prompt": PROMPT}
    patched, positive, negative, *_ = outputs(FoveaDenseDiffusion, **given, arranged_noises=2)
    return sample(patched, world, positive, negative)


def layout_loss(model: Any, world: World) -> Tensor:
    given = {"model": model, "clip": world.clip, "regions": halves(), "prompt": PROMPT}
    patched, positive, negative, *_ = outputs(FoveaDenseDiffusion, **given, layout_iterations=2)
    return sample(patched, world, positive, negative)


def hard_regions(model: Any, world: World) -> Tensor:
    """At their strongest."""
    given = {"model": model, "clip": world.clip, "regions": halves(), "prompt": PROMPT}
    extreme = {"method": "hard", "cross_strength": 4.0, "self_strength": 4.0, "end_percent": 1.0}
    patched, positive, negative, *_ = outputs(FoveaDenseDiffusion, **given, **extreme)
    return sample(patched, world, positive, negative)


def paint(model: Any, world: World) -> Tensor:
    given = {"model": model, "clip": world.clip, "regions": halves(), "prompt": PROMPT}
    patched, positive, negative, *_ = outputs(FoveaPaintWithWords, **given)
    return sample(patched, world, positive, negative)


def attention_map(model: Any, world: World) -> Tensor:
    given = {"model": model, "positive": world.positive, "latent": {"samples": world.start}}
    return outputs(FoveaAttentionMap, **given)[0]


def experts(model: Any, world: World) -> Tensor:
    """The second is the same model with guidance of its own, strong and in long steps, so that what it does is seen."""
    (second,) = outputs(FoveaSelfAttentionGuidance, model=model, scale=5.0, mask_mode="soft")
    (chain,) = outputs(FoveaExpert, model=second, boundary_unit="percent", boundary=0.1)
    return sample(outputs(FoveaExpertSwitch, model=model, experts=chain)[0], world, **LONG_STEPS)


def style(model: Any, world: World) -> Tensor:
    # At a scale that equals the sampler's cfg, this draws what the styled prompt alone does: well above it, then.
    patched, *_ = outputs(FoveaStyleGuidance, model=model, without_style=world.positive, style_scale=9.0)
    return sample(patched, world, world.styled)


def clip_guidance(model: Any, world: World) -> Tensor:
    given = {"vae": world.vae, "scorer": world.scorer, "prompt": PROMPT}
    return sample(*outputs(FoveaCLIPGuidance, model=model, **given), world)


def _search(node: Any, model: Any, world: World, **settings: Any) -> Tensor:
    """With a seed whose own noise is not the best."""
    given = {"vae": world.vae, "positive": world.positive, "negative": world.negative, "scorer": world.scorer,
             "prompt": PROMPT, "latent_image": {"samples": torch.zeros_like(world.start)}}  # fmt: skip
    return outputs(node, model=model, steps=STEPS, cfg=4.0, seed=1, **given, **settings)[0]["samples"]


def optimize_through(model: Any, world: World) -> Tensor:
    return _search(FoveaOptimizeLatent, model, world, iterations=1, candidates=1, gradient_path="all_steps")


def optimize_past(model: Any, world: World) -> Tensor:
    return _search(FoveaOptimizeLatent, model, world, iterations=1, candidates=1, gradient_path="past_model")


def best_of_n(model: Any, world: World) -> Tensor:
    return _search(FoveaBestOfN, model, world, candidates=2, rounds=0)


def halving(model: Any, world: World) -> Tensor:
    return _search(FoveaBestOfN, model, world, candidates=4, rounds=1, batch_size=2)


PATCHES: dict[str, Callable[[Any, World], Tensor]] = {
    each.__name__: each for each in (
        sag, regions, region_lora, region_start, arranged, hard_regions, paint, attention_map, experts, style,
    )
}
# Through the sampled model.
WITH_GRADIENTS = {each.__name__: each for each in (clip_guidance, optimize_through, layout_loss)}
WITH_PICTURES = ("clip_guidance", "optimize_through", "optimize_past")  # which decode and score them
TECHNIQUES = {**PATCHES, **WITH_GRADIENTS, **{each.__name__: each for each in (optimize_past, best_of_n, halving)}}


LAYOUTS = ("arranged", "layout_loss")  # choose places, of which a small start has too few


def with_room(name: str, world: World) -> World:
    return world if name not in LAYOUTS or world.large is None else world._replace(start=world.large)


def without(name: str, model: Any, world: World) -> Tensor:
    """What is drawn of the same noise and prompts where the technique does nothing: of those that change the noise for
    regions, with the regions."""
    with torch.inference_mode():
        if name in LAYOUTS:
            return regions(model, with_room(name, world))
        if name in ("optimize_through", "optimize_past"):
            return _search(FoveaOptimizeLatent, model, world, iterations=0, candidates=1)
        if name in ("best_of_n", "halving"):
            return _search(FoveaBestOfN, model, world, candidates=1, rounds=0)
        settings = LONG_STEPS if name == "experts" else {}
        return sample(model, world, world.styled if name == "style" else None, **settings)


def run(name: str, model: Any, world: World) -> Tensor:
    """As the server runs nodes."""
    with torch.inference_mode():
        return TECHNIQUES[name](model, with_room(name, world)) if name in TECHNIQUES else plain(model, world)
