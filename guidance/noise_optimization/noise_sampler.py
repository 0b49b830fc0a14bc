"""Optimizing starting latents inside the host: one guided run in which the whole search takes place."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import comfy.samplers
import torch
from torch import Tensor

from ..gradients.autograd import (
    companions_to_normal_tensors,
    fully_loaded,
    normal_copy,
    outside_inference_mode,
    to_normal_tensors,
    with_backward,
)
from ..gradients.checkpointing import checkpoint_blocks
from ..gradients.errors import NoGradient
from ..gradients.refusals import (
    refuse_clip_guidance,
    refuse_packed_weights,
    refuse_step_caches,
    refuse_what_guidance_hides,
    refuse_what_loses_gradient,
)
from . import reversible_ode
from .gradient_sampler import GradientSampler
from .losses import Saliency, SalientLoss, Scorer, encode_target
from .reversible_ode import Denoise, Pair, Schedule
from .search import Best, Evaluation, Limits, search
from .search import best_of as draw
from .update_rules import Rule, unit_noise

MODES = ("checkpoint", "invertible")
LOSS_SCALE = 2.0**12
Watch = Callable[[int, Best], None]
Evaluate = Callable[[Tensor, bool], Evaluation]


def _nobody(_iteration: int, _best: Best) -> None:
    pass


@dataclass(frozen=True)
class Task:
    """What to look for. text: one for all latents. saliency: None (the whole picture only), a fixed map [1 or n,
    height, width], or a function of pictures, asked anew every `refresh` iterations.

    draws: fresh starting noises tried first, of which the best is moved. through: None takes exact gradients; n goes
    back through the model in the last n steps only, 0 not at all, which works with any model.
    """

    scorer: Scorer
    text: str
    loss: SalientLoss
    rule: Rule
    limits: Limits
    saliency: Tensor | Saliency | None = None
    refresh: int = 1
    mode: str = "checkpoint"
    mix: float = reversible_ode.MIX
    draws: int = 1
    through: int | None = None


class Outcome(NamedTuple):
    """best: its `start` is unit noise, its `sampled` as the host's samplers give it. started: what the sampler began
    with, as the host has latents; samplers that add no noise go on from it (diffusion models, not flow models).
    nowhere: per picture, how often nothing of it was salient, so that the whole picture counted alone."""

    best: Best
    started: Tensor
    nowhere: list[int]


@dataclass(frozen=True)
class Setting:
    """Everything a sampler of the host is given, for starting latents to be tried in. noise: unit noise [n, ...]."""

    model: Any
    vae: Any
    positive: list
    negative: list
    cfg: float
    noise: Tensor
    latent: Tensor
    sigmas: Tensor
    seed: int
    noise_mask: Tensor | None = None


def optimize(setting: Setting, task: Task, watch: Watch = _nobody, tick: Callable[[], None] = lambda: None) -> Outcome:
    """Search the starting noise whose picture fits the text best.

    watch: told after every evaluation of a starting latent, tick: at every evaluation of the model. Everything is put
    back at the end, also after an error or a cancel. Raises NoGradient where gradients would be wrong or impossible.
    """
    if task.through != 0:
        refuse_clip_guidance(setting.model)
        refuse_what_guidance_hides(setting.model)
        refuse_what_loses_gradient(setting.model, [options for _, options in (*setting.positive, *setting.negative)])
    refuse_packed_weights(*(patcher.model for patcher in (setting.vae.patcher, *patchers_of(task.scorer))))
    if task.mode == "invertible":
        if setting.noise_mask is not None:
            raise NoGradient("Mode invertible does not keep what an inpainting mask protects. Use mode checkpoint.")
        if task.through is not None:
            raise NoGradient("Mode invertible goes back through all steps: set through to -1, or use mode checkpoint.")

    def look(evaluate: Evaluate, noise: Tensor) -> Best:
        limits, began, first = task.limits, time.monotonic(), None
        generators = _generators(noise, setting.seed + 1)  # one stream: the rule's noise is none of the draws'
        if task.draws > 1:
            first = draw(_draws(noise, generators, task.draws), evaluate, limits.seconds, watch)
        if limits.seconds:
            left = limits.seconds - (time.monotonic() - began)
            if first is not None and left <= 0:
                return first
            limits = replace(limits, seconds=max(1e-9, left))
        start = noise if first is None else first.start.clone()
        return search(start, evaluate, task.rule, limits, generators, watch, first)

    return tried(setting, task, look, tick, RUN if task.through != 0 else PICTURES)


def best_of(
    setting: Setting, task: Task, count: int, watch: Watch = _nobody, tick: Callable[[], None] = lambda: None
) -> Outcome:
    """The best of `count` draws of starting noise, the setting's own first. Needs no gradient."""

    def look(evaluate: Evaluate, noise: Tensor) -> Best:
        return draw(_draws(noise, _generators(noise, setting.seed + 1), count), evaluate, task.limits.seconds, watch)

    return tried(setting, task, look, tick, NOTHING)


NOTHING, PICTURES, RUN = range(3)  # what gradients are taken of: nothing, decoder and scorer, the whole run


def tried(
    setting: Setting, task: Task, look: Callable[[Evaluate, Tensor], Best], tick: Callable[[], None] = lambda: None,
    gradient: int = RUN,
) -> Outcome:  # fmt: skip
    """Let `look` try starting latents inside of one run of the host, which differs from a plain one as little as the
    gradients that are wanted allow."""
    refuse_step_caches(setting.model)
    if setting.latent.ndim != 4:
        raise NoGradient(
            "Latents with a frame axis (of videos, and of Qwen-Image) cannot be optimized: use a model whose latents "
            "have none, such as SD1.5, SDXL, SD3 or Flux."
        )
    with outside_inference_mode() if gradient == RUN else contextlib.nullcontext():
        patcher, vae = setting.model.clone(), setting.vae.patcher
        if gradient >= PICTURES:
            with outside_inference_mode():
                vae = fully_loaded(vae)
        if gradient == RUN:
            patcher = fully_loaded(setting.model)
            with_backward(patcher)
        more = [vae, *patchers_of(task.scorer, task.saliency)]
        guider = comfy.samplers.CFGGuider(patcher)
        (tensor, options), *others = normal_copy(setting.positive)
        positive, negative = [[tensor, with_additional_models(options, more)], *others], normal_copy(setting.negative)
        if gradient == RUN:
            companions_to_normal_tensors(patcher, [cond for _, cond in (*positive, *negative)])
        guider.set_conds(positive, negative)
        guider.set_cfg(setting.cfg)
        with outside_inference_mode():
            wanted = encode_target(task.scorer, task.text)
        found: list[Outcome] = []

        def work(denoise: Denoise, schedule: Schedule, start_of: Callable[[Tensor], Tensor]) -> Tensor:
            def counted(x: Tensor, sigma: float) -> Tensor:
                tick()
                return denoise(x, sigma)

            if gradient >= PICTURES:
                loaded_to_normal_tensors([vae, *patchers_of(task.scorer)])
            process_out = guider.inner_model.process_latent_out
            decode = decoder(setting.vae, vae.model, process_out)
            noise = normal_copy(setting.noise).to(patcher.load_device, torch.float32)
            trial = _Trial(task, counted, schedule, start_of, decode, wanted, _generators(noise, setting.seed))
            best = look(trial.evaluate, noise)
            best.start = sampler.settled(best.start, noise)
            found.append(Outcome(best, process_out(start_of(best.start)), trial.nowhere))
            return best.sampled

        sampler = GradientSampler(work, gradient == RUN)
        best_sampled = guider.sample(
            normal_copy(setting.noise), normal_copy(setting.latent), sampler, normal_copy(setting.sigmas),
            denoise_mask=normal_copy(setting.noise_mask), disable_pbar=True, seed=setting.seed,
        )  # fmt: skip
        found[0].best.sampled = best_sampled
        return found[0]


def evaluations(mode: str, steps: int, updates: int, draws: int = 1, through: int | None = None) -> int:
    """How often the model is evaluated: for every draw, forth and back for every update, forth once more at the end."""
    back = steps if through is None else min(through, steps)
    alone = draws if draws > 1 else 0
    latents = 2 if mode == "invertible" else 1
    return latents * (steps * (alone + updates + 1) + back * updates)


class _Trial:
    """Evaluates starting latents: sample, decode, score, and the gradient back through all of it."""

    def __init__(
        self, task: Task, denoise: Denoise, schedule: Schedule, start_of: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor], wanted: Any, generators: Sequence[torch.Generator],
    ) -> None:  # fmt: skip
        self.task, self.denoise, self.schedule, self.start_of = task, denoise, schedule, start_of
        self.decode, self.wanted, self.generators = decode, wanted, generators
        self.moved = 0
        self.map: Tensor | None = None
        self.nowhere = [0] * len(generators)

    def evaluate(self, z: Tensor, gradient_wanted: bool) -> Evaluation:
        """Try starting noise z [n, ...] out. Raises NoGradient if the way back does not lead to where it began."""
        first, through = self.start_of(z.detach()), self.task.through
        if self.task.mode == "invertible":
            end = reversible_ode.edict(self.denoise, self.schedule, Pair(first, first), self.task.mix)
            ends = list(end)
        else:
            states = reversible_ode.euler(self.denoise, self.schedule, first)
            ends = [states[-1]]
        losses, pictures, at_ends = self._scored(ends, gradient_wanted)
        gradient = None
        if gradient_wanted:
            if self.task.mode == "invertible":
                began, pair = reversible_ode.edict_gradient(
                    self.denoise, self.schedule, end, Pair(*at_ends), self.task.mix
                )
                for again in began:
                    reversible_ode.same(again, first)
                at_first = pair.x + pair.y
            else:
                at_first = reversible_ode.euler_gradient(self.denoise, self.schedule, states, at_ends[0], through)
            slope = self.start_of(torch.ones_like(z)) - self.start_of(torch.zeros_like(z))
            gradient = (slope * at_first).to(z)
        self.moved += gradient_wanted
        return Evaluation(losses, gradient, ends[0], pictures)

    def _scored(self, ends: list[Tensor], gradient_wanted: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean losses over the ends, the first end's pictures, and the gradient at every end."""
        total, shown, gradients = None, None, []
        for end in ends:
            with outside_inference_mode() if gradient_wanted else torch.no_grad():
                leaf = normal_copy(end).detach().requires_grad_() if gradient_wanted else end
                with torch.set_grad_enabled(gradient_wanted):
                    pictures = self.decode(leaf)
                    again = not gradient_wanted or self.moved % self.task.refresh == 0  # draws are other pictures
                    saliency = self._saliency(pictures.detach(), again) if shown is None else self.map
                    found = self.task.loss(self.task.scorer, self.wanted, pictures, saliency, self.generators)
                    losses = found / len(ends)
                    if gradient_wanted:  # scaled, so that a decoder in half precision does not lose it
                        gradients.append(torch.autograd.grad(LOSS_SCALE * losses.sum(), leaf)[0] / LOSS_SCALE)
                losses, pictures = losses.detach().to(end.device), pictures.detach()
            total = losses if total is None else total + losses
            shown = pictures if shown is None else shown
        assert total is not None and shown is not None
        return total, shown, gradients

    def _saliency(self, pictures: Tensor, again: bool) -> Tensor | None:
        given = self.task.saliency
        if given is None or self.task.loss.weight == 0:
            return None
        if self.map is None or (callable(given) and again):
            look = getattr(given, "maps", given)  # a model that the run has loaded
            found = look(pictures) if callable(look) else look
            size = pictures.shape[-2:]
            found = found.to(pictures.device, torch.float32)
            if found.shape[-2:] != size:
                found = torch.nn.functional.interpolate(found[:, None], size=size, mode="bilinear")[:, 0]
            self.map = found[torch.arange(len(pictures)) % len(found)]
        for i, salient in enumerate(torch.gt(self.map, 0).flatten(1).any(dim=1).tolist()):
            self.nowhere[i] += not salient
        return self.map


def decoder(vae: Any, network: Any, process_out: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The model's latents to pictures [n, 3, height, width] in 0..1, as the host decodes, differentiable.

    network: the VAE's network, resident; process_out: from the model's scaling of latents to the VAE's.
    """

    def decode(latents: Tensor) -> Tensor:
        latents = process_out(latents).to(vae.device, vae.vae_dtype)
        with checkpoint_blocks(network):
            decoded = network.decode(latents)
        return vae.process_output(decoded.float())

    return decode


def loaded_to_normal_tensors(patchers: list) -> None:
    """Models that gradients go through, after the host has loaded them: moving them to a GPU in inference mode makes
    tensors that autograd refuses. Raises NoGradient for what is loaded in part only, whose weights come and go."""
    with outside_inference_mode():
        for patcher in patchers:
            if getattr(patcher.model, "model_lowvram", False):
                raise NoGradient(
                    f"{type(patcher.model).__name__} does not fit into the GPU's memory as a whole, which gradients "
                    "need: take a tiny autoencoder as vae, a smaller scorer, or a smaller picture."
                )
            to_normal_tensors(patcher.model)


def patchers_of(*owners: Any) -> list:
    """The patchers of those scorers and saliency models that have networks."""
    return [owner.patcher for owner in owners if hasattr(owner, "patcher")]


def with_additional_models(options: Mapping[str, Any], models: list) -> dict[str, Any]:
    """A prompt's options, so that the host loads further models along with the sampled one."""
    already = options.get("additional_models", [])
    already = already if isinstance(already, list) else [already]
    return {**options, "additional_models": [*already, *models]}


def _draws(noise: Tensor, generators: list[torch.Generator], count: int) -> Iterator[Tensor]:
    """Starting noises to try: this one, then fresh ones."""
    return itertools.chain([noise], (unit_noise(noise, generators) for _ in range(count - 1)))


def _generators(noise: Tensor, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed((seed + 1000 * i) % 2**63) for i in range(len(noise))]
