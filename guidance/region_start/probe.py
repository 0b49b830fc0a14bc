"""One look at a model's attention to regions' words before a run begins, outside of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...attention import hooks
from ...attention.compiled import original
from ...attention.conds import Conds, Row
from ...attention.families.registry import family_of
from ...attention.families.unet import UNetFamily
from ...attention.recorders import row_tensors
from ...attention.run import Attention, AttentionCall, AttentionWrapper, Run
from ...attention.sites import BlockId
from ..regions.prompt_regions import PromptRegions, regions_of
from ..starting_noise import StartOfRun

TAG = "region start"  # of these evaluations, by which other wrappers can tell them from a step's
NOTHING_READ = (
    "The starting noise is not %s: no layer that can be read has a grid that is fine enough, or the model sees a part "
    "of the picture and nothing says which."
)
MIN_SIDE = 12  # tokens: coarser layers know what is there, hardly where

Measure = Callable[[AttentionCall, Row, PromptRegions], Tensor | None]


class _Enough(Exception):
    """The network has said all that is needed; what is left of it is not evaluated."""


@dataclass(eq=False)
class Reading:
    """Technique of one evaluation, and its wrapper. seen: per grid, what was measured in its layers, one by one.

    Layers of the coarsest grid that tells places count. leaves: whether the network is left behind the last of them.
    sampling, sigma: of the model and where; a block that is computed again for gradients asks for them later. acting:
    those of a prompt's regions that act there.
    """

    layers: tuple[BlockId, ...]
    measure: Measure
    leaves: bool
    sampling: Any
    sigma: float
    seen: dict[tuple[int, ...], list[Tensor]] = field(default_factory=dict)
    acting: dict[PromptRegions, PromptRegions] = field(default_factory=dict)

    kinds: frozenset[str] = frozenset({"cross", "joint"})
    reads: bool = True

    @property
    def blocks(self) -> frozenset[BlockId]:
        return frozenset(self.layers)

    @property
    def grid(self) -> tuple[int, ...]:
        return min(self.seen, key=math.prod)

    @property
    def values(self) -> list[Tensor]:
        """What the layers that count have shown; nothing where none could be read."""
        return self.seen[self.grid] if self.seen else []

    def begin(self, run: Run) -> Sequence[AttentionWrapper]:
        return (self,)

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        return any(regions_of(row) is not None for row in rows)

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        """The call as it is, after what is to be measured of it. Raises _Enough, which only `read` sees."""
        site = call.site
        up = site.block.section == "output" and bool(self.seen) and math.prod(site.grid) > math.prod(self.grid)
        if min(site.grid[-2:]) >= MIN_SIDE and not up:  # on a UNet's way up what comes is finer
            for row in call.rows:
                regions = self._acting(row)
                value = self.measure(call, row, regions) if regions is not None and regions.tokens else None
                if value is not None:
                    self.seen.setdefault(site.grid, []).append(value)
        if self.leaves and self.seen and (up or site.block == self.layers[-1]):
            raise _Enough
        return attention(call.q, call.k, call.v)

    def _acting(self, row: Row) -> PromptRegions | None:
        """Those of a row's regions that act here, the same object in every layer."""
        regions = regions_of(row)
        if regions is not None and regions not in self.acting:
            self.acting[regions] = regions.now(self.sampling, self.sigma)
        return None if regions is None else self.acting[regions]


def _reading(model: Any, measure: Measure, sigma: float) -> Reading:
    """Of a UNet all layers are read; of a transformer, whose blocks have one grid, the first half of them.

    A network is left early only where nothing of it waits to be continued: not with gradients through a transformer,
    which may compute its blocks again on the way back, nor where weights are fetched ahead (dynamic VRAM).
    """
    family = family_of(original(model.diffusion_model))
    if family is None:
        return Reading((), measure, False, model.model_sampling, sigma)
    blocks, is_unet = family.blocks(original(model.diffusion_model)), isinstance(family, UNetFamily)
    plain = is_unet or not torch.is_grad_enabled()
    leaves = plain and not model.current_patcher.is_dynamic()
    read_blocks = blocks if is_unet else blocks[: (len(blocks) + 1) // 2]
    return Reading(read_blocks, measure, leaves, model.model_sampling, sigma)


def read(noise: Tensor, run: StartOfRun, conds: Conds, measure: Measure, more_options: Mapping[str, Any]) -> Reading:
    """Evaluate the model on its first latent with these conds, unsteered, as far as it takes to measure them.

    more_options: for transformer_options. Nothing of it stays: the run's own steps know nothing of this one.
    """
    guider, sigma = run.guider, run.sigmas[:1].to(noise.device)
    model = guider.inner_model
    reading = _reading(model, measure, float(sigma))
    latent = torch.zeros_like(noise) if run.latent is None else run.latent
    most = comfy.samplers.Sampler().max_denoise(guider, run.sigmas)
    x = model.model_sampling.noise_scaling(sigma, noise.clone(), latent, most)
    own_run = Run((reading,))
    own_run.roles.begin(guider)
    options = {**run.model_options.get("transformer_options", {}), **more_options}
    options = {**options, hooks.RUN: own_run, hooks.DEGRADED: TAG}
    comfy.model_management.throw_exception_if_processing_interrupted()
    own_run.open(model, float(sigma), tuple(noise.shape[2:]), guider)
    try:
        comfy.samplers.calc_cond_batch(
            model, [conds], x, sigma.expand(len(x)), {**run.model_options, "transformer_options": options}
        )
    except _Enough:
        pass  # left on purpose: what it was evaluated for is in `reading`
    finally:
        own_run.close()
    return reading


def attention_to_regions(call: AttentionCall, row: Row, regions: PromptRegions) -> list[Tensor]:
    """How much of its attention every place gives to each of a region's words, the mean over heads: per region [batch,
    places, words].

    In joint attention of the attention to text, whatever goes to the picture. A head at a time; with gradients, the
    heads are computed again on the way back.
    """
    q, k, bias = row_tensors(call, row)
    first, _ = call.site.text.of(call.site.text_tokens, row.length)
    text = slice(call.site.words.start + first, call.site.words.stop)
    k, bias = k[:, :, text], None if bias is None else bias[..., text]
    scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
    places = [[place for place in own if place < k.shape[2]] for own in regions.tokens]
    every = torch.tensor([place for own in places for place in own], dtype=torch.long, device=q.device)

    def of_head(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        scores = (q.float() @ k.float().mT) * scale
        return (scores if bias is None else scores + bias).softmax(dim=-1)[..., every]

    total, group = q.new_zeros(q.shape[0], q.shape[2], len(every), dtype=torch.float32), q.shape[1] // k.shape[1]
    for head in range(q.shape[1]):
        own_bias = None if bias is None else bias[:, head if bias.shape[1] > 1 else 0]
        given = (q[:, head], k[:, head // group], own_bias)
        if torch.is_grad_enabled() and q.requires_grad:
            total = total + checkpoint(of_head, *given, use_reentrant=False)
        else:
            total += of_head(*given)
    return list((total / q.shape[1]).split([len(own) for own in places], dim=-1))
