"""One evaluation of starting noise: sample, decode, score, and the gradient back to where it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..gradients.autograd import normal_copy, outside_inference_mode
from . import reversible_ode
from .reversible_ode import Pair
from .search import Evaluation

if TYPE_CHECKING:
    from .config import OptimizationConfig
    from .decoding import Decoder
    from .guided_model import GuidedModel

LOSS_SCALE = 2.0**12


@dataclass(eq=False)
class Trial:
    """Evaluates starting latents: sample, decode, score, and the gradient back through all of it.

    target: what the scorer compares with. generators: one per picture, for its cutouts. region_targets: what it
    compares the regions with, where the config has regions.
    empty_saliency: per picture, how often nothing of it was salient.
    """

    config: OptimizationConfig
    model: GuidedModel
    decode: Decoder
    target: Any
    generators: Sequence[torch.Generator]
    region_targets: Sequence[Any] = ()
    empty_saliency: list[int] = field(default_factory=list)
    gradients_taken: int = 0
    saliency: Tensor | None = None

    def evaluate(self, z: Tensor, gradient_wanted: bool) -> Evaluation:
        """Try starting noise z [n, ...] out. Raises NoGradient if the way back does not lead to where it began."""
        first = self.model.start_of(z.detach())
        if self.config.mode == "invertible":
            end = reversible_ode.edict(self.model.denoise, self.model.schedule, Pair(first, first), self.config.mix)
            ends = list(end)
        else:
            states = reversible_ode.euler(self.model.denoise, self.model.schedule, first)
            ends = [self.model.latent_of(states[-1])]
        losses, pictures, at_ends = self._scored(ends, gradient_wanted)
        gradient = None
        if gradient_wanted:
            if self.config.mode == "invertible":
                began, pair = reversible_ode.edict_gradient(
                    self.model.denoise, self.model.schedule, end, Pair(*at_ends), self.config.mix
                )
                for again in began:
                    reversible_ode.same(again, first)
                at_first = (pair.x + pair.y) / 2  # DOODL's mean over the two latents, whose clamp goes by its size
            else:
                at_end = self.model.gradient_of_state(at_ends[0])
                at_first = reversible_ode.euler_gradient(
                    self.model.denoise, self.model.schedule, states, at_end, self.config.backprop_steps
                )
            gradient = self.model.gradient_of_noise(at_first).to(z)
        self.gradients_taken += gradient_wanted
        return Evaluation(losses, gradient, ends[0], pictures)

    def judge(self, latents: Tensor, decode: Decoder) -> tuple[Tensor, Tensor]:
        """Losses [n] of clean latents [n, ...], without gradient, and a picture [n, 3, height, width] of each: of a
        video the middle one, and the mean of what is scored."""
        with torch.no_grad():
            frames = decode.frames(latents)
            losses = [self._loss(frames[:, at]) for at in range(frames.shape[1])]
            return torch.stack(losses).mean(dim=0).to(latents.device), frames[:, frames.shape[1] // 2]

    def region_losses(self, pictures: Tensor) -> Tensor | None:
        """Losses [n, regions] of pictures; None where the config has no regions."""
        goal = self.config.regions
        return None if goal is None else goal.losses(self.config.scorer, self.region_targets, pictures)

    def _loss(self, pictures: Tensor) -> Tensor:
        return self._with_regions(pictures, self._look(pictures, again=True))

    def _with_regions(self, pictures: Tensor, saliency: Tensor | None) -> Tensor:
        whole = self.config.loss(self.config.scorer, self.target, pictures, saliency, self.generators)
        regions = self.region_losses(pictures) if self.config.regions and self.config.regions.weight else None
        return whole if regions is None or self.config.regions is None else self.config.regions.mixed(whole, regions)

    def _scored(self, ends: list[Tensor], gradient_wanted: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean losses over the ends, the first end's pictures, and the gradient at every end."""
        total, shown, gradients = None, None, []
        for end in ends:
            with outside_inference_mode() if gradient_wanted else torch.no_grad():
                leaf = normal_copy(end).detach().requires_grad_() if gradient_wanted else end
                with torch.set_grad_enabled(gradient_wanted):
                    pictures = self.decode(leaf)
                    # Candidates are other pictures every time; iterations change one picture little by little.
                    again = not gradient_wanted or self.gradients_taken % self.config.saliency_interval == 0
                    saliency = self._look(pictures.detach(), again) if shown is None else self.saliency
                    losses = self._with_regions(pictures, saliency) / len(ends)
                    if gradient_wanted:  # scaled, so that a decoder in half precision does not lose it
                        gradients.append(torch.autograd.grad(LOSS_SCALE * losses.sum(), leaf)[0] / LOSS_SCALE)
                losses, pictures = losses.detach().to(end.device), pictures.detach()
            total = losses if total is None else total + losses
            shown = pictures if shown is None else shown
        assert total is not None and shown is not None
        return total, shown, gradients

    def _look(self, pictures: Tensor, again: bool) -> Tensor | None:
        given = self.config.saliency
        if given is None or self.config.loss.weight == 0:
            return None
        other_size = self.saliency is not None and self.saliency.shape[-2:] != pictures.shape[-2:]
        if self.saliency is None or other_size or (callable(given) and again):
            maps = getattr(given, "maps", given)  # a model that the run has loaded
            saliency = maps(pictures) if callable(maps) else maps
            size = pictures.shape[-2:]
            saliency = saliency.to(pictures.device, torch.float32)
            if saliency.shape[-2:] != size:
                saliency = torch.nn.functional.interpolate(saliency[:, None], size=size, mode="bilinear")[:, 0]
            self.saliency = saliency[torch.arange(len(pictures)) % len(saliency)]
        self.empty_saliency = self.empty_saliency or [0] * len(pictures)
        for i, salient in enumerate(torch.gt(self.saliency, 0).flatten(1).any(dim=1).tolist()):
            self.empty_saliency[i] += not salient
        return self.saliency
