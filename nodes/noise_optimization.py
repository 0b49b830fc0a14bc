"""Optimizing the starting latent: the search by gradients, and the search without."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..guidance.noise_optimization import update_rules
from ..guidance.noise_optimization.candidate_legs import FIRST_CUT
from ..guidance.noise_optimization.config import (
    SEARCHES,
    CandidateSearch,
    OptimizationConfig,
    OptimizationResult,
    evaluations,
    gradient_steps,
)
from ..guidance.noise_optimization.losses import SalientLoss
from ..guidance.noise_optimization.noise_sampler import SamplingInputs, best_of_n, optimize_noise
from ..guidance.noise_optimization.particles import STRENGTH
from ..guidance.noise_optimization.presets import PRESETS
from ..guidance.noise_optimization.region_goal import RegionGoal
from ..guidance.noise_optimization.search import Best, Limits
from ..guidance.regions.masks import Regions
from ..guidance.spectral_residual import spectral_residual
from ..models.scorers.scorer import Scorer
from .region_sources import RegionsType
from .saliency import SaliencyType
from .scorers import ScorerType, prompt_lines
from .ui import charts, choice, errors, notices, preset_inputs, search_report

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

OPTIMIZE, BEST_OF_N = "Optimize Latent", "Best of N"
ALIASES = ["latent optimization", "noise optimization"]


# Of searches, by node. Here, since ComfyUI asks before it runs a node, and keeps none of what it was between.
CANCELS: Counter[str] = Counter()

EULER = " The sampler is Euler, which is DDIM without noise."


def _sampling_inputs(sampler_name: io.Input | None = None, said: str = "") -> list[io.Input]:
    """What a sampler needs, as KSampler has it, and what to look for. sampler_name: None, where there is no choice;
    said: what is said of it then."""
    return [
        io.Model.Input("model", tooltip="What draws. Patches, LoRA, guidance and regions stay in effect."),
        io.Vae.Input("vae", tooltip="Decodes what is scored. A tiny autoencoder saves time and memory."),
        io.Conditioning.Input("positive", tooltip="The prompt, as for a sampler."),
        io.Conditioning.Input("negative", tooltip="The negative prompt, as for a sampler."),
        io.Latent.Input("latent_image", tooltip="Empty latents; or pictures with an inpainting mask (Set Latent Noise "
                        "Mask): without one they are drawn over. Each of a batch by itself."),
        ScorerType.Input("scorer", tooltip="From Load Scorer: what judges the pictures."),
        io.String.Input("prompt", multiline=True, default="", tooltip="What the pictures should show, for the scorer."),
        io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                     tooltip="Of the first starting noise: the same that a KSampler would begin with."),
        io.Int.Input("steps", default=20, min=1, max=1000,
                     tooltip="Steps of every trial. Fewer are faster: time is steps times trials."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="As for a sampler."),
        *([] if sampler_name is None else [sampler_name]),
        io.Combo.Input("scheduler", options=list(comfy.samplers.KSampler.SCHEDULERS), default="normal",
                       tooltip=f"Noise levels of the steps.{said}"),
    ]  # fmt: skip


def _search_inputs() -> list[io.Input]:
    """How candidates are tried."""
    return [
        io.Int.Input("rounds", default=0, min=0, max=20,
                     tooltip="How often the worse half of the candidates is dropped before their end. 0: all are "
                     "sampled to their end. Worth it with many steps, where an early look tells and costs little."),
        io.Float.Input("prune_percent", default=FIRST_CUT, min=0.05, max=0.95, step=0.05, advanced=True,
                       tooltip="Part of the steps after which candidates are first scored and dropped: 0.35 is 35 %. "
                       "Earlier saves more and tells less."),
        io.Int.Input("batch_size", default=1, min=1, max=256,
                     tooltip="How many candidates are sampled at once: faster on a GPU. Halved where memory does not "
                     "suffice."),
        io.Vae.Input("preview_vae", optional=True,
                     tooltip="Decodes candidates that are not finished; a tiny autoencoder saves time. Without: vae."),
        RegionsType.Input("regions", optional=True,
                          tooltip="From Region and the like: each place should fit its own prompt."),
        io.Float.Input("region_weight", default=0.5, min=0.0, max=1.0, step=0.05,
                       tooltip="Share of the regions in the loss. 0: they are scored for the report alone."),
    ]  # fmt: skip


def _methods() -> dict[str, list[io.Input]]:
    """What can be set of each of SEARCHES alone."""
    strength = io.Float.Input("particle_strength", default=STRENGTH, min=0.0, max=100.0, step=0.1, optional=True,
                              advanced=True, tooltip="How much a better score counts. 0: all alike.")  # fmt: skip
    own: dict[str, list[io.Input]] = {"particles": [strength]}
    return {name: own.get(name, []) for name in SEARCHES}


def _result_outputs() -> list[io.Output]:
    """The finished latent comes first, as a sampler's does: who takes the first output must not decode noise."""
    return [
        io.Latent.Output(display_name="samples", tooltip="The best sample."),
        io.Image.Output(display_name="image", tooltip="The best pictures."),
        io.Latent.Output(
            display_name="start", tooltip="The best starting latent, noise included: for KSampler (Advanced) with "
            "add_noise off, or SamplerCustom without noise. Not for flow models: use noise."
        ),
        io.Noise.Output(display_name="noise", tooltip="The best starting noise, for SamplerCustomAdvanced."),
        io.Image.Output(display_name="chart", tooltip="The losses of all trials."),
        io.String.Output(display_name="report", tooltip="What was done and found, in words."),
    ]  # fmt: skip


class _Search(io.ComfyNode):
    """A search whose cancel leaves the best of what was finished."""

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> tuple[str, int]:
        """Another value after a cancel of this node: ComfyUI keeps what that left as if it were the whole search's, and
        would answer the next queue with it. By the node's id, so that a cancel makes no other search of its graph run
        again; one of that id in another graph is searched once more."""
        return _node_id(cls), CANCELS[_node_id(cls)]


def _node_id(node: type[io.ComfyNode]) -> str:
    return str(node.hidden.unique_id) if node.hidden else ""


class FoveaOptimizeLatent(_Search):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaOptimizeLatent",
            display_name=OPTIMIZE,
            category="Fovea/latent",
            description=(
                "Changes the starting noise step by step until the finished picture fits the prompt, as a scorer rates "
                "it. By default from the best of some candidates, without a gradient through the model; DOODL, SGOOL "
                "(which looks at salient parts) and ReNO are presets."
            ),
            search_aliases=[*ALIASES, "SGOOL", "DOODL", "ReNO"],
            inputs=[
                *_sampling_inputs(said=EULER),
                io.Int.Input("patience", default=0, min=0, max=1000, advanced=True,
                             tooltip="Stop after this many trials without a better one. 0: never."),
                io.Float.Input("seconds", default=0.0, min=0.0, max=100000.0, step=1.0, advanced=True,
                               tooltip="Stop after this many seconds. 0: never."),
                SaliencyType.Input("saliency_model", optional=True,
                                   tooltip="From Load Saliency Model. Without one: the spectral residual. Used where "
                                   "salient_weight is above 0 (preset SGOOL, or set it in default or custom)."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where the picture matters, instead of a saliency model. Like that, it "
                              "counts only where salient_weight is above 0."),
                *_search_inputs(),
                io.Float.Input("candidate_share", default=0.5, min=0.0, max=1.0, step=0.05, advanced=True,
                               tooltip="With a limit of seconds: what part of them is for candidates. The rest is for "
                               "iterations while they pay, then for further candidates."),
                io.DynamicCombo.Input(
                    "preset", options=[io.DynamicCombo.Option(name, preset_inputs.inputs_of(name)) for name in PRESETS],
                    tooltip="default: a cheap direction in place of a gradient, from the best of some candidates. "
                    "SGOOL, DOODL, ReNO: as published, with exact gradients. custom: everything can be set.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=_result_outputs(),
        )  # fmt: skip

    @classmethod
    @errors.of_node(OPTIMIZE)
    def execute(
        cls, model: ModelPatcher, vae: VAE, positive: list, negative: list, latent_image: dict, scorer: Scorer,
        prompt: str, seed: int, steps: int, cfg: float, scheduler: str, patience: int = 0, seconds: float = 0.0,
        saliency_model: Callable[[Tensor], Tensor] | None = None, mask: Tensor | None = None, rounds: int = 0,
        prune_percent: float = FIRST_CUT, batch_size: int = 1, preview_vae: VAE | None = None,
        regions: Regions | None = None, region_weight: float = 0.5, candidate_share: float = 0.5,
        preset: dict[str, Any] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        inputs = _sampling_values(model, vae, positive, negative, latent_image, seed, steps, scheduler, cfg,
                                  preview_vae=preview_vae)  # fmt: skip
        name, changed = choice.chosen(preset, "preset", PRESETS)
        chosen = replace(PRESETS[name], **changed)
        rule = update_rules.RULES[chosen.update_rule]()
        iterations = chosen.iterations if chosen.learning_rate > 0 else 0
        goal, notes = _region_goal(regions, region_weight)
        saliency = mask if mask is not None else (saliency_model or spectral_residual)
        if chosen.salient_weight == 0:
            saliency, unseen = None, {"mask": mask, "saliency_model": saliency_model}
            notes += [f"{one} does nothing: salient_weight is 0 (presets default, SGOOL and custom show it)."
                      for one, given in unseen.items() if given is not None]  # fmt: skip
        config = OptimizationConfig(
            scorer, prompt,
            SalientLoss(chosen.salient_weight, chosen.cutouts, chosen.salient_views, resize=chosen.view_resize),
            type(rule)(rate=rule.rate * chosen.learning_rate), Limits(iterations, seconds, patience),
            saliency, chosen.saliency_interval, chosen.mode,
            candidates=chosen.candidates, backprop_steps=gradient_steps(chosen.gradient_path, chosen.backprop_steps),
            search=CandidateSearch(rounds, prune_percent, batch_size, share=candidate_share),
            regions=goal,
        )  # fmt: skip
        progress = _Progress(evaluations(chosen.mode, steps, iterations, chosen.candidates, config.backprop_steps,
                                         config.search))  # fmt: skip
        with _advice(inputs, gradients_of="the decoder" if chosen.gradient_path == "past_model" else "the model"):
            result = optimize_noise(inputs, config, progress.on_evaluation, progress.on_model_call)
        CANCELS[_node_id(cls)] += result.best.canceled
        return _result(result, inputs, latent_image, config, "iteration", OPTIMIZE,
                       [*prompt_lines(scorer, prompt), *notes])  # fmt: skip


class FoveaBestOfN(_Search):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaBestOfN",
            display_name=BEST_OF_N,
            category="Fovea/latent",
            description=(
                "Tries several starting noises and keeps the picture that fits the prompt best, as a scorer rates it. "
                "With rounds, what looks worse after a part of the steps is dropped, to save its time."
            ),
            search_aliases=[*ALIASES, "best of n", "best seed", "seed finder", "seed search", "rejection sampling",
                            "successive halving"],
            inputs=[
                *_sampling_inputs(io.Combo.Input(
                    "sampler_name", options=list(comfy.samplers.KSampler.SAMPLERS), default="euler",
                    tooltip="As for a sampler. One that remembers earlier steps begins anew with the candidates that "
                    "are left, which takes more time.",
                )),
                io.Int.Input("candidates", default=8, min=1, max=10000, tooltip="How many noises are tried."),
                io.Float.Input("seconds", default=0.0, min=0.0, max=100000.0, step=1.0, advanced=True,
                               tooltip="Draw only as many candidates as this many seconds allow. 0: all."),
                *_search_inputs(),
                io.DynamicCombo.Input(
                    "method", options=[io.DynamicCombo.Option(name, own) for name, own in _methods().items()],
                    tooltip="halving: the worse half is dropped, rounds times. particles: none is; those whose "
                    "pictures improve multiply. Needs a sampler that draws noise (euler_ancestral).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=_result_outputs(),
        )  # fmt: skip

    @classmethod
    @errors.of_node(BEST_OF_N)
    def execute(
        cls, model: ModelPatcher, vae: VAE, positive: list, negative: list, latent_image: dict, scorer: Scorer,
        prompt: str, seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str, candidates: int,
        seconds: float, rounds: int = 0, prune_percent: float = FIRST_CUT, batch_size: int = 1,
        preview_vae: VAE | None = None, regions: Regions | None = None, region_weight: float = 0.5,
        method: dict[str, Any] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        inputs = _sampling_values(model, vae, positive, negative, latent_image, seed, steps, scheduler, cfg,
                                  sampler_name, preview_vae)  # fmt: skip
        name, own = choice.chosen(method, "method", SEARCHES)
        strength = own.get("particle_strength", STRENGTH)
        search = CandidateSearch(rounds, prune_percent, batch_size, sampler_name, name, strength)
        goal, notes = _region_goal(regions, region_weight)
        config = OptimizationConfig(scorer, prompt, SalientLoss(weight=0.0), update_rules.Doodl(), Limits(0, seconds),
                                    candidates=candidates, search=search, regions=goal)  # fmt: skip
        progress = _Progress(search.steps(candidates, steps))
        with _advice(inputs):
            result = best_of_n(inputs, config, progress.on_evaluation, progress.on_model_call)
        CANCELS[_node_id(cls)] += result.best.canceled
        return _result(result, inputs, latent_image, config, "candidate", BEST_OF_N,
                       [*prompt_lines(scorer, prompt), *notes])  # fmt: skip


def _sampling_values(
    model: ModelPatcher, vae: VAE, positive: list, negative: list, latent: dict, seed: int, steps: int, scheduler: str,
    cfg: float, sampler: str = "euler", preview_vae: VAE | None = None,
) -> SamplingInputs:  # fmt: skip
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], latent.get("downscale_ratio_spacial"))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sigmas = comfy.samplers.KSampler(model, steps, torch.device("cpu"), sampler, scheduler).sigmas
    return SamplingInputs(model, vae, positive, negative, cfg, noise, samples, sigmas, seed, latent.get("noise_mask"),
                          preview_vae)  # fmt: skip


def _region_goal(regions: Regions | None, weight: float) -> tuple[RegionGoal | None, list[str]]:
    """Those regions that act and have a prompt, None where there is none; and what there is to say of the others."""
    if regions is None:
        return None, []
    items = [region for region in regions.acting.items if region.prompt.strip()]
    goal = RegionGoal([r.mask for r in items], [r.prompt for r in items], weight) if items else None
    return goal, [*regions.idle(), *([] if items else ["No region has a prompt: regions are not scored."])]


@contextlib.contextmanager
def _advice(inputs: SamplingInputs, gradients_of: str = "") -> Iterator[None]:
    """Say what to do where memory does not suffice. gradients_of: the decoder alone, or the model; "" for neither."""
    try:
        yield
    except mm.OOM_EXCEPTION as why:
        batch, *_, height, width = inputs.latent.shape
        cures = ["a smaller picture", "a batch of one"]
        if gradients_of:
            cures.append("a tiny autoencoder (TAESD) as vae")
        if gradients_of == "the model":
            cures.append("preset default (gradient_path past_model), which takes no gradient of the model")
        why_so_much = "Gradients need several times the memory of plain sampling. " if gradients_of else ""
        raise RuntimeError(
            f"Out of memory with {batch} picture(s), latents of {width} x {height}. {why_so_much}Use "
            f"{', '.join(cures[:-1])}, or {cures[-1]}."
        ) from why


class _Progress:
    """The node's progress bar over all evaluations of the model, with the best picture so far."""

    def __init__(self, total: int) -> None:
        self.bar, self.done, self.total = comfy.utils.ProgressBar(total), 0, total

    def on_model_call(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        self.bar.update_absolute(self.done, self.total)

    def on_evaluation(self, _iteration: int, best: Best) -> None:
        shown = (best.pictures[0].movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        preview = Image.fromarray(np.asarray(shown))
        self.bar.update_absolute(self.done, self.total, ("JPEG", preview, 512))


class FixedNoise:
    """A NOISE that is given, for SamplerCustomAdvanced."""

    def __init__(self, noise: Tensor, seed: int) -> None:
        self.noise, self.seed = noise, seed

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        wanted = tuple(input_latent["samples"].shape)
        if wanted != tuple(self.noise.shape):
            raise ValueError(
                f"The optimized noise is for latents of shape {tuple(self.noise.shape)}, not {wanted}: connect the "
                "latent that it was optimized for."
            )
        return self.noise.clone()


def _result(
    result: OptimizationResult, inputs: SamplingInputs, latent: dict, config: OptimizationConfig, trial: str,
    node: str, notes: list[str],
) -> io.NodeOutput:  # fmt: skip
    """notes: what there is to say of the node's inputs, a line for each."""
    best = result.best
    notices.report(node, [*notes, *search_report.warnings(result)])
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    chart = charts.curves(list(zip(*best.iterations)), "loss of every trial", trial)
    return io.NodeOutput(
        {**kept, "samples": best.sampled.cpu().float()},
        best.pictures.movedim(1, -1).cpu().float(),
        {**{k: v for k, v in kept.items() if k != "noise_mask"}, "samples": result.started.cpu().float()},
        FixedNoise(best.start.cpu().float(), result.seeds[0]),
        chart[None],
        "\n".join([*notes, *search_report.lines(result, config)]),
    )


NODES: list[Any] = [FoveaOptimizeLatent, FoveaBestOfN]
