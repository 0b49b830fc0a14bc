"""Optimising starting latents inside the host: one guided run in which the whole search takes place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.samplers
import torch
from torch import Tensor

from . import reversible
from .clip_loss import Saliency, SalientLoss, Scorer, wanted_by
from .host_gradient import (
    GradientSampler,
    make_companions_ordinary,
    ordinary,
    outside_inference_mode,
    refuse_what_loses_gradient,
    resident,
    with_backward,
)
from .latent_rules import Rule, unit_noise
from .latent_search import Best, Evaluation, Limits, search
from .latent_search import best_of as draw
from .reversible import Denoise, NoGradient, Pair, Schedule

MODES = ("checkpoint", "invertible")
LOSS_SCALE = 2.0**12
Watch = Callable[[int, Best], None]


def _nobody(_iteration: int, _best: Best) -> None:
    pass


@dataclass(frozen=True)
class Task:
    """What to look for. text: one for all latents. saliency: None (the whole picture only), a fixed map [1 or n,
    height, width], or a function of pictures, asked anew every `refresh` iterations."""

    scorer: Scorer
    text: str
    loss: SalientLoss
    rule: Rule
    limits: Limits
    saliency: Tensor | Saliency | None = None
    refresh: int = 1
    mode: str = "checkpoint"
    mix: float = reversible.MIX


class Outcome(NamedTuple):
    """best: its `start` is unit noise, its `sampled` as the host's samplers give it. started: what the sampler began
    with, as the host has latents; samplers that add no noise go on from it (diffusion models, not flow models)."""

    best: Best
    started: Tensor


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


def optimise(setting: Setting, task: Task, watch: Watch = _nobody, tick: Callable[[], None] = lambda: None) -> Outcome:
    """Search the starting noise whose picture fits the text best.

    watch: told after every evaluation of a starting latent, tick: at every evaluation of the model. Everything is put
    back at the end, also after an error or a cancel. Raises NoGradient where gradients would be wrong or impossible.
    """
    refuse_what_loses_gradient(setting.model, [options for _, options in (*setting.positive, *setting.negative)])
    if setting.noise_mask is not None and task.mode == "invertible":
        raise NoGradient("Mode invertible does not keep what an inpainting mask protects. Use mode checkpoint.")

    def look(evaluate: Callable[[Tensor, bool], Evaluation], noise: Tensor) -> Best:
        return search(noise, evaluate, task.rule, task.limits, _generators(noise, setting.seed + 1), watch)

    return _tried(setting, task, look, tick)


def best_of(
    setting: Setting, task: Task, count: int, watch: Watch = _nobody, tick: Callable[[], None] = lambda: None
) -> Outcome:
    """The best of `count` draws of starting noise, the setting's own first. Needs no gradient."""

    def look(evaluate: Callable[[Tensor, bool], Evaluation], noise: Tensor) -> Best:
        generators = _generators(noise, setting.seed + 1)
        draws = itertools.chain([noise], (unit_noise(noise, generators) for _ in range(count - 1)))
        return draw(draws, evaluate, task.limits.seconds, watch)

    return _tried(setting, task, look, tick)


def _tried(
    setting: Setting, task: Task, look: Callable[[Callable[[Tensor, bool], Evaluation], Tensor], Best],
    tick: Callable[[], None],
) -> Outcome:  # fmt: skip
    """Let `look` try starting latents inside of one run of the host."""
    if setting.latent.ndim != 4:
        raise NoGradient("Starting latents of videos cannot be optimised: use a model of pictures.")
    with outside_inference_mode():
        patcher, vae = resident(setting.model), resident(setting.vae.patcher)
        with_backward(patcher)
        more = [vae, *patchers_of(task.scorer, task.saliency)]
        guider = comfy.samplers.CFGGuider(patcher)
        (tensor, options), *others = ordinary(setting.positive)
        positive, negative = [[tensor, bringing(options, more)], *others], ordinary(setting.negative)
        make_companions_ordinary(patcher, [cond for _, cond in (*positive, *negative)])
        guider.set_conds(positive, negative)
        guider.set_cfg(setting.cfg)
        wanted = wanted_by(task.scorer, task.text)
        found: list[tuple[Best, Tensor]] = []

        def work(denoise: Denoise, schedule: Schedule, start_of: Callable[[Tensor], Tensor]) -> Tensor:
            def counted(x: Tensor, sigma: float) -> Tensor:
                tick()
                return denoise(x, sigma)

            process_out = guider.inner_model.process_latent_out
            decode = decoder(setting.vae, vae.model, process_out)
            noise = ordinary(setting.noise).to(patcher.load_device, torch.float32)
            trial = _Trial(task, counted, schedule, start_of, decode, wanted, _generators(noise, setting.seed))
            best = look(trial.evaluate, noise)
            best.start = sampler.settled(best.start, noise)
            found.append((best, process_out(start_of(best.start))))
            return best.sampled

        sampler = GradientSampler(work)
        best_sampled = guider.sample(
            ordinary(setting.noise), ordinary(setting.latent), sampler, ordinary(setting.sigmas),
            denoise_mask=ordinary(setting.noise_mask), disable_pbar=True, seed=setting.seed,
        )  # fmt: skip
        best, started = found[0]
        best.sampled = best_sampled
        return Outcome(best, started)


def evaluations(mode: str, steps: int, updates: int) -> int:
    """How often the model is evaluated: forth and back for every update, forth once more at the end."""
    latents = 2 if mode == "invertible" else 1
    return latents * steps * (2 * updates + 1)


class _Trial:
    """Evaluates starting latents: sample, decode, score, and the gradient back through all of it."""

    def __init__(
        self, task: Task, denoise: Denoise, schedule: Schedule, start_of: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor], wanted: Any, generators: Sequence[torch.Generator],
    ) -> None:  # fmt: skip
        self.task, self.denoise, self.schedule, self.start_of = task, denoise, schedule, start_of
        self.decode, self.wanted, self.generators = decode, wanted, generators
        self.iteration, self.map = 0, None

    def evaluate(self, z: Tensor, gradient_wanted: bool) -> Evaluation:
        """Try starting noise z [n, ...] out. Raises NoGradient if the way back does not lead to where it began."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            first = self.start_of(leaf)
        if self.task.mode == "invertible":
            end = reversible.edict(self.denoise, self.schedule, Pair(first.detach(), first.detach()), self.task.mix)
            ends = list(end)
        else:
            states = reversible.euler(self.denoise, self.schedule, first.detach())
            ends = [states[-1]]
        losses, pictures, at_ends = self._scored(ends, gradient_wanted)
        gradient = None
        if gradient_wanted:
            if self.task.mode == "invertible":
                began, pair = reversible.edict_gradient(
                    self.denoise, self.schedule, end, Pair(*at_ends), self.task.mix
                )
                for again in began:
                    reversible.same(again, first.detach())
                at_first = pair.x + pair.y
            else:
                at_first = reversible.euler_gradient(self.denoise, self.schedule, states, at_ends[0])
            (gradient,) = torch.autograd.grad(first, leaf, at_first)
        self.iteration += 1
        return Evaluation(losses.detach(), gradient, ends[0], pictures)

    def _scored(self, ends: list[Tensor], gradient_wanted: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean losses over the ends, the first end's pictures, and the gradient at every end."""
        total, shown, gradients = None, None, []
        for end in ends:
            with torch.enable_grad() if gradient_wanted else torch.no_grad():
                leaf = end.detach().requires_grad_(gradient_wanted)
                pictures = self.decode(leaf)
                saliency = self._saliency(pictures.detach()) if shown is None else self.map
                losses = self.task.loss(self.task.scorer, self.wanted, pictures, saliency, self.generators) / len(ends)
                if gradient_wanted:  # scaled, so that a decoder in half precision does not lose it
                    gradients.append(torch.autograd.grad(LOSS_SCALE * losses.sum(), leaf)[0] / LOSS_SCALE)
            losses = losses.detach().to(end.device)
            total = losses if total is None else total + losses
            shown = pictures.detach() if shown is None else shown
        assert total is not None and shown is not None
        return total, shown, gradients

    def _saliency(self, pictures: Tensor) -> Tensor | None:
        given = self.task.saliency
        if given is None or self.task.loss.weight == 0:
            return None
        if self.map is None or (callable(given) and self.iteration % self.task.refresh == 0):
            look = getattr(given, "maps", given)  # a model that the run has loaded
            found = look(pictures) if callable(look) else look
            size = pictures.shape[-2:]
            found = found.to(pictures.device, torch.float32)
            if found.shape[-2:] != size:
                found = torch.nn.functional.interpolate(found[:, None], size=size, mode="bilinear")[:, 0]
            self.map = found[torch.arange(len(pictures)) % len(found)]
        return self.map


def decoder(vae: Any, network: Any, process_out: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The model's latents to pictures [n, 3, height, width] in 0..1, as the host decodes, differentiable.

    network: the VAE's network, resident; process_out: from the model's scaling of latents to the VAE's.
    """

    def decode(latents: Tensor) -> Tensor:
        latents = process_out(latents).to(vae.device, vae.vae_dtype)
        return vae.process_output(network.decode(latents).float())

    return decode


def patchers_of(*owners: Any) -> list:
    """The patchers of those scorers and saliency models that have networks."""
    return [owner.patcher for owner in owners if hasattr(owner, "patcher")]


def bringing(options: Mapping[str, Any], models: list) -> dict[str, Any]:
    """A prompt's options, so that the host loads further models along with the sampled one."""
    already = options.get("additional_models", [])
    already = already if isinstance(already, list) else [already]
    return {**options, "additional_models": [*already, *models]}


def _generators(noise: Tensor, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed((seed + 1000 * i) % 2**63) for i in range(len(noise))]
