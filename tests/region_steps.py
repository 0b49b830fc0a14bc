"""Marked prompts and steered models for tests, and the published operator written out inside ComfyUI's UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fovea.guidance.regions import model_patch
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK, PromptRegions
from fovea.guidance.regions.score_bias import RegionBias

PLACES = ((1, 2, 3), (5, 6))
PAPER = RegionControl(RegionBias(), 1.0, 0.3, 0.0, 0.3)
LATER = RegionControl(RegionBias(), 1.0, 0.3, 0.123, 0.1231)  # no step falls into this window


def boxes(height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    left, right = torch.zeros(1, height, width), torch.zeros(1, height, width)
    left[:, : height // 2, : width // 2] = 1
    right[:, height // 4 :, width // 2 :] = 1
    return left, right


def two_regions(masks: tuple[Tensor, Tensor] | None = None, **changes: Any) -> Regions:
    left, right = masks or boxes()
    return Regions((Region(left, "a plain red star", **changes), Region(right, "a plain blue circle")))


def marked(
    conditioning: list, regions: Regions, places: tuple = PLACES, control: RegionControl = PAPER, **changes: Any
) -> list:
    length = conditioning[0][0].shape[1]
    settings = {"appended": length, "negative": False, "regions": regions, **changes}
    strengths = tuple(r.strength for r in regions.items)
    found = PromptRegions(control, regions.canvas(), strengths, places, length, **settings)
    return [[tensor, {**options, MARK: found}] for tensor, options in conditioning]


def steered(model: Any) -> Any:
    """A model that obeys prompts with regions."""
    patched = model.clone()
    model_patch.install(patched)
    return patched


def assert_alike(got: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference against the largest value: latents of random models are large, and steps let errors grow."""
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@contextmanager
def published(model: Any, regions: Regions, places: tuple, control: RegionControl) -> Iterator[None]:
    """Every attention of a UNet written out with DenseDiffusion's formula, for the rows of the positive prompt.

    With score unit "row std", a row's standard deviation stands for its range. Needs masks whose size is a whole
    multiple of every layer's grid and that do not overlap.
    """
    masks = torch.stack([region.mask[0] for region in regions.items])
    network, handles = model.model.diffusion_model, []
    options: dict[str, Any] = {}
    hook = network.register_forward_pre_hook(
        lambda _module, _args, kwargs: options.update(kwargs["transformer_options"]), with_kwargs=True
    )

    def slow(attn: Any, own: bool) -> Callable:
        def attention(x: Tensor, context: Tensor | None = None, value: Tensor | None = None, mask: Any = None,
                      transformer_options: Any = None) -> Tensor:  # fmt: skip
            source = x if context is None else context
            q, k, v = attn.to_q(x), attn.to_k(source), attn.to_v(source if value is None else value)
            q, k, v = (t.unflatten(2, (attn.heads, -1)).transpose(1, 2).double() for t in (q, k, v))
            s = q @ k.mT * q.shape[-1] ** -0.5
            weight = control.image if own else control.text
            sampling = model.get_model_object("model_sampling")
            sigma = options["sigmas"][:1]
            time = float(sampling.timestep(sigma)) / 1000
            if sampling.percent_to_sigma(control.end) < float(sigma) <= sampling.percent_to_sigma(control.start):
                height, width = transformer_options["activations_shape"][2:]
                shares = F.adaptive_avg_pool2d(masks[None], (height, width))[0].flatten(1).T.double()
                everywhere = torch.cat([shares, 1 - shares.sum(1, keepdim=True)], 1)
                covered = torch.cat([masks.mean((1, 2)), 1 - masks.mean((1, 2)).sum()[None]]).double()
                amount = (weight * time**5 * (everywhere * (1 - covered)).sum(1))[:, None]
                tokens = torch.zeros(k.shape[2], len(masks), dtype=torch.float64)
                for region, at in enumerate(places):
                    tokens[list(at), region] = 1
                pairs = everywhere @ everywhere.T if own else shares @ tokens.T
                up, down = s.amax(-1, keepdim=True) - s, s - s.amin(-1, keepdim=True)
                changed = s + amount * (pairs * up - (1 - pairs) * down)
                if control.bias.score_unit == "row std":
                    changed = (1 - amount) * s + amount * s.std(-1, correction=0, keepdim=True) * pairs
                size = len(s) // len(options["cond_or_uncond"])
                positive = torch.tensor(options["cond_or_uncond"]).repeat_interleave(size) == 0
                s = torch.where(positive[:, None, None, None], changed, s)
            out = s.softmax(-1) @ v
            return attn.to_out(out.transpose(1, 2).flatten(2).float())

        return attention

    for module in network.modules():
        for name in ("attn1", "attn2"):
            if hasattr(module, name):
                attn = getattr(module, name)
                attn.forward = slow(attn, name == "attn1")
                handles.append(attn)
    try:
        yield
    finally:
        hook.remove()
        for attn in handles:
            del attn.forward
