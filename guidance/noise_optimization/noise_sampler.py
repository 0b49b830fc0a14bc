"""Optimizing the starting noise inside ComfyUI: a sampler that, in one guided run, searches instead of sampling."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ..additional_models import patchers_of, with_additional_models
from ..gradients.autograd import (
    companions_to_normal_tensors,
    fully_loaded,
    loaded_to_normal_tensors,
    normal_copy,
    outside_inference_mode,
    with_backward,
)
from ..gradients.errors import NoGradient
from ..gradients.refusals import (
    refuse_clip_guidance,
    refuse_packed_weights,
    refuse_step_caches,
    refuse_what_guidance_hides,
    refuse_what_loses_gradient,
)
from ..starting_noise import EXCHANGES, starts_of
from ..wrapper_keys import EXPERTS
from .candidate_legs import LegSearch, cuts
from .candidate_sampler import CandidateSampler, CandidateWork, fitting_batch
from .candidates import CUTOUTS, RESAMPLING, UPDATES, candidate_noises, generators, sampling_seed
from .config import CandidateSearch, OptimizationConfig, OptimizationResult
from .decoding import Decoder, is_video
from .guided_model import GuidedModel, OnModelCall, ignore_model_call
from .halving import Halving
from .memoryless import DRAWN_NOISE, samples_together, what_remembers
from .particles import Particles
from .per_picture import numbers_of_pictures
from .refine import Phase, Refinement, add
from .search import Best, Limits, best_of, search
from .trial import Trial

logger = logging.getLogger(__name__)
OnEvaluation = Callable[[int, Best], None]


class Gradients(IntEnum):
    """What gradients are taken of: nothing, decoder and scorer, the whole run."""

    NONE = 0
    PICTURES = 1
    RUN = 2


@dataclass(frozen=True)
class SamplingInputs:
    """Everything a sampler of ComfyUI is given. noise: unit noise [n, ...]. preview_vae: decodes what is
    not finished; None is the vae."""

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
    preview_vae: Any = None


def ignore_evaluation(_iteration: int, _best: Best) -> None:
    """For callers that need no progress."""


class NoiseOptimizer(comfy.samplers.Sampler):
    """A sampler that tries starting noises and returns the best one's sample; `result` has the rest.

    vae_network: the VAE's network, as the run loads it. target: what the scorer compares with.
    """

    starts_itself = True  # nodes that change the starting noise do so to every trial's (starting_noise.py)

    def __init__(
        self, config: OptimizationConfig, inputs: SamplingInputs, gradients: Gradients, vae_patcher: Any, target: Any,
        on_evaluation: OnEvaluation = ignore_evaluation, on_model_call: OnModelCall = ignore_model_call,
        region_targets: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.region_targets = region_targets
        self.config, self.inputs, self.gradients = config, inputs, gradients
        self.vae_patcher, self.target = vae_patcher, target
        self.on_evaluation, self.on_model_call = on_evaluation, on_model_call
        self.best: Best | None = None
        self.earlier: Best | None = None
        self.drawn = 0
        self.phases: list[Phase] = []
        self.result: OptimizationResult | None = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """Called by ComfyUI in its run, as for every sampler. Raises NoGradient where the weights do not fit."""
        through_model = self.gradients == Gradients.RUN
        model = GuidedModel(model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask, through_model,
                            self.on_model_call)  # fmt: skip
        if self.gradients >= Gradients.PICTURES:
            loaded_to_normal_tensors([self.vae_patcher, *patchers_of(self.config.scorer)])
        process_out = model_wrap.inner_model.process_latent_out
        decode = Decoder(self.inputs.vae, self.vae_patcher.model, process_out)
        first = normal_copy(self.inputs.noise).to(noise.device, torch.float32)
        cutouts = generators(self.inputs.seed, len(first), CUTOUTS)
        trial = Trial(self.config, model, decode, self.target, cutouts, self.region_targets)
        try:
            best = self.search(trial, first)
        except comfy.model_management.InterruptProcessingException:
            finished = [each for each in (self.earlier, self.best) if each and torch.isfinite(each.losses).all()]
            if not finished:
                raise
            best = finished[0] if finished[0] is finished[-1] else add(*finished)
            best.stopped, best.canceled = "canceled: the best of what was finished", True
        best.start = model.settled(best.start)
        region_scores = self.region_scores(trial, best.pictures)
        if latent_image is not None and is_video(latent_image):
            best.pictures = decode.whole(best.sampled)
        best.sampled = model.finished(best.sampled)
        started = process_out(model.latent_of(model.start_of(best.start)))
        numbers = [0] * len(first) if best.numbers is None else best.numbers.tolist()
        seeds = [sampling_seed(self.inputs.seed, number) for number in numbers]
        self.result = OptimizationResult(best, started, trial.empty_saliency, seeds, self.phases,
                                         region_scores)  # fmt: skip
        return best.sampled

    def search(self, trial: Trial, noise: Tensor) -> Best:
        """Candidates first, then the best of them moved down its loss. Without gradients, candidates are all."""
        config = self.config
        noises = candidate_noises(noise, self.inputs.seed, config.candidates)

        def draw(seconds: float, before: Best | None) -> Best:
            self.earlier = before
            first = 0 if before is None else self.drawn
            if first >= config.candidates:
                return before if before is not None else best_of([], trial.evaluate)
            found = self.try_candidates(trial, noises, seconds, first)
            self.drawn = first + len(found.iterations)
            return found if before is None else add(before, found)

        def iterate(limits: Limits, best: Best | None) -> Best:
            start = noise if best is None else best.start.clone()
            random = generators(self.inputs.seed, len(noise), UPDATES)
            return search(start, trial.evaluate, config.rule, limits, random, self.seen, best)

        alone = self.gradients == Gradients.NONE
        refinement = Refinement(
            draw if alone or config.candidates > 1 else None, None if alone else iterate, config.limits,
            config.search.share, phases=self.phases,
        )  # fmt: skip
        return refinement.run()

    def try_candidates(self, trial: Trial, noises: Iterator[Tensor], seconds: float, first: int) -> Best:
        """The best of the candidates from number `first` on; seconds: 0 is any."""
        config, wanted, model = self.config, self.config.search, trial.model
        if config.mode == "invertible":  # whose samples are EDICT's
            return best_of(noises, trial.evaluate, seconds, self.seen)
        why = next(filter(None, (what_remembers(wanted.sampler, each) for each in self.options_of_models())), "")
        why = why or ("a LoRA's strength changes on the way (hook keyframes)" if model.keyframed else "")
        apart = self.per_picture(model)
        batch = wanted.batch if samples_together(wanted.sampler) and not apart else 1
        vae, noise = self.inputs.preview_vae, model.noise
        fitting = fitting_batch(model.patcher, noise.shape, batch, noise.device)
        preview = trial.decode if vae is None else Decoder(vae, vae.patcher.model, trial.decode.process_out)
        sampler = CandidateSampler(wanted.sampler, model, self.inputs.seed, self.on_model_call)
        at = cuts(model.schedule.steps, wanted.rounds, wanted.first_cut)
        given = (CandidateWork(sampler, trial, preview), config.candidates - first, at, fitting, seconds)
        legs: LegSearch
        if wanted.method == "particles":
            _refuse_particles(wanted, why)
            random = generators(self.inputs.seed, len(noise), RESAMPLING)
            legs = Particles(*given, watch=self.seen, first_number=first, strength=wanted.strength, generators=random)
        else:
            legs = Halving(*given, not why, self.seen, first_number=first)
        best = legs.run((z, model.begun(model.settled(z))) for z in noises)
        if why and len(at) > 1 and config.candidates > 1:
            best.notes.append(f"those left were sampled again from their noise: {why}")
        if apart and wanted.batch > 1:
            best.notes.append(f"candidates were sampled one at a time: {apart}")
        if fitting < batch:
            best.notes.append(f"memory sufficed for {fitting} at once, not for {batch}")
        return best

    def region_scores(self, trial: Trial, pictures: Tensor) -> list[list[float]]:
        """Of the best pictures."""
        with torch.no_grad():
            losses = trial.region_losses(pictures)
            return [] if losses is None else self.config.scorer.scores(losses).tolist()

    def per_picture(self, model: GuidedModel) -> str:
        """Why candidates cannot share a batch: inputs that are for each picture of it; "" if they can."""
        conds = [cond for listed in model.inner.inner_model.conds.values() for cond in listed or ()]
        experts = model.extra_args["model_options"].get("transformer_options", {}).get(EXPERTS)
        conds += [] if experts is None else experts.conds()
        places = len(model.noise)
        wrong = [n for n in numbers_of_pictures(conds, self.options_of_models(), is_video(model.noise)) if places % n]
        return f"prompts, masks or ControlNets are for {min(wrong)} pictures, the latent has {places}" if wrong else ""

    def options_of_models(self) -> list[dict[str, Any]]:
        """Of the sampled model, and of its experts."""
        patcher = self.inputs.model
        return [each.model_options for each in (patcher, *(patcher.get_attachment(EXPERTS) or ()))]

    def seen(self, number: int, best: Best) -> None:
        """Keep what was found, for the case of a cancel, and tell of it."""
        self.best = best
        self.on_evaluation(number, best)


def _refuse_particles(wanted: CandidateSearch, why: str) -> None:
    """Raises ValueError where copies would stay copies. why: what remembers earlier steps, "" if nothing does."""
    if not wanted.rounds:
        raise ValueError("Particles are weighed at each of `rounds` looks: set rounds to 1 or more.")
    if why or wanted.sampler not in DRAWN_NOISE:
        raise ValueError(
            f"Particles need noise that the sampler draws on the way, and nothing that remembers earlier steps "
            f"({why or f'{wanted.sampler} draws none'}): take a sampler such as euler_ancestral, dpmpp_sde or "
            "lcm, or method halving."
        )


def optimize_noise(
    inputs: SamplingInputs, config: OptimizationConfig, on_evaluation: OnEvaluation = ignore_evaluation,
    on_model_call: OnModelCall = ignore_model_call, optimizer: type[NoiseOptimizer] = NoiseOptimizer,
) -> OptimizationResult:  # fmt: skip
    """Search the starting noise whose picture fits the prompt best.

    on_evaluation: told after every evaluation of a starting noise. on_model_call: at every evaluation of the model.
    Everything is put back at the end, also after an error or a cancel. Raises NoGradient where gradients would be wrong
    or impossible.
    """
    if not config.scorer.differentiable:
        result = best_of_n(inputs, config, on_evaluation, on_model_call)
        if config.limits.iterations:
            note = f"{config.scorer.name} gives no gradient: candidates only, nothing was changed"
            logger.warning(note)
            result.best.notes.append(note)
        return result
    if config.limits.iterations and any(start.turn == EXCHANGES for start in starts_of(inputs.model.model_options)):
        raise NoGradient(
            "The model exchanges blocks of the starting noise, through which no gradient is taken: set arranged_noises "
            "of Dense Diffusion to 0, or use Best of N."
        )
    if config.backprop_steps != 0:
        refuse_clip_guidance(inputs.model)
        refuse_what_guidance_hides(inputs.model)
        refuse_what_loses_gradient(inputs.model, [options for _, options in (*inputs.positive, *inputs.negative)])
    refuse_packed_weights(*(patcher.model for patcher in (inputs.vae.patcher, *patchers_of(config.scorer))))
    if config.mode == "invertible":
        if inputs.noise_mask is not None:
            raise NoGradient("Mode invertible does not keep what an inpainting mask protects. Use mode checkpoint.")
        if config.backprop_steps is not None:
            raise NoGradient(
                "Mode invertible goes back through all steps: use gradient_path all_steps, or mode checkpoint."
            )
    gradients = Gradients.RUN if config.backprop_steps != 0 else Gradients.PICTURES
    return _run(inputs, config, gradients, optimizer, on_evaluation, on_model_call)


def best_of_n(
    inputs: SamplingInputs, config: OptimizationConfig, on_evaluation: OnEvaluation = ignore_evaluation,
    on_model_call: OnModelCall = ignore_model_call,
) -> OptimizationResult:  # fmt: skip
    """The best of the config's candidates, the inputs' own noise first. Needs no gradient."""
    return _run(inputs, config, Gradients.NONE, NoiseOptimizer, on_evaluation, on_model_call)


def _run(
    inputs: SamplingInputs, config: OptimizationConfig, gradients: Gradients, optimizer: type[NoiseOptimizer],
    on_evaluation: OnEvaluation, on_model_call: OnModelCall,
) -> OptimizationResult:  # fmt: skip
    """One run of ComfyUI with the optimizer as its sampler, as like a plain one as the wanted gradients allow."""
    refuse_step_caches(inputs.model)
    if inputs.latent.is_nested or inputs.latent.ndim not in (4, 5):
        raise ValueError("These latents hold no pictures (sound, video with sound, 3D): there is nothing to score.")
    if is_video(inputs.latent) and gradients != Gradients.NONE:
        raise NoGradient("No gradient is taken through videos: use Best of N, which needs none, or a single frame.")
    through_model = gradients == Gradients.RUN
    with outside_inference_mode() if through_model else contextlib.nullcontext():
        patcher, vae_patcher = inputs.model.clone(), inputs.vae.patcher
        if gradients >= Gradients.PICTURES:
            with outside_inference_mode():
                vae_patcher = fully_loaded(vae_patcher)
        if through_model:
            patcher = fully_loaded(inputs.model)
            with_backward(patcher)
        judges = patchers_of(config.scorer, config.saliency)
        # Before the run: in it, the sampled model counts as in use, and could not make room for what loads whole.
        comfy.model_management.load_models_gpu(judges)
        more = [vae_patcher, *judges]
        more += [] if inputs.preview_vae is None else [inputs.preview_vae.patcher]
        (tensor, options), *others = normal_copy(inputs.positive)
        positive = [[tensor, with_additional_models(options, more)], *others]
        negative = normal_copy(inputs.negative)
        if through_model:
            companions_to_normal_tensors(patcher, [cond for _, cond in (*positive, *negative)])
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(positive, negative)
        guider.set_cfg(inputs.cfg)
        with outside_inference_mode():
            target = config.scorer.target(config.prompt)
            region_targets = [] if config.regions is None else config.regions.targets(config.scorer)
        sampler = optimizer(config, inputs, gradients, vae_patcher, target, on_evaluation, on_model_call,
                            region_targets)  # fmt: skip
        sampled = guider.sample(
            normal_copy(inputs.noise), normal_copy(inputs.latent), sampler, normal_copy(inputs.sigmas),
            denoise_mask=normal_copy(inputs.noise_mask), disable_pbar=True, seed=inputs.seed,
        )  # fmt: skip
        assert sampler.result is not None
        sampler.result.best.sampled = sampled
        return sampler.result
