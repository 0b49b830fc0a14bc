"""Several models share one sampling run of ComfyUI, each in its own range of noise.

Everything hangs on a clone of the main model, so any sampler and any guider works. Each expert has an ExpertGuider that
never samples: it holds the expert's conditioning, encoded by the expert, its options and its CFG, and is asked for the
picture x0 at the expert's noise levels. x0 is the same thing in every parameterization, so a flow model and an eps
model can take turns in one latent space.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sampler_helpers
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...attention.run import Shared
from ..noise_levels import LEVEL_TOLERANCE, convert_latent, half_log_snr
from ..wrapper_keys import EXPERTS, REMEMBERS_STEPS
from . import plan
from .blending import POST_CFG, blended
from .expert_guider import NODE, Expert, ExpertGuider, Started, is_flow, load_beside, name_of
from .plan import BadExperts

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)
KEY = EXPERTS
MEMORY = ("auto", "keep", "unload")
DECIDE_BY = ("sigma", "monotonic")


def check(main: ModelPatcher, experts: Sequence[Expert]) -> None:
    """Raise BadExperts for models that cannot share one latent."""
    if any(KEY in model.wrappers.get(WrappersMP.PREDICT_NOISE, {}) for model in (main, *(e.model for e in experts))):
        raise BadExperts("One of the models has an Expert Switch already. Chain all experts and use one switch.")
    if not experts:
        raise BadExperts("No expert is connected. Connect at least one Expert.")
    flow = is_flow(main)
    wanted = main.model.latent_format
    for at, expert in enumerate(experts, 1):
        mixed = is_flow(expert.model) != flow
        both = [model.get_model_object("model_sampling") for model in (main, expert.model)]
        if mixed and any(getattr(sampling, "noise_scale", 1.0) != 1.0 for sampling in both):
            raise BadExperts(f"Expert {at} and the main model mix picture and noise in ways that cannot be converted.")
        if expert.model.load_device != main.load_device:
            raise BadExperts(
                f"Expert {at} runs on {expert.model.load_device}, the main model on {main.load_device}. Use one device."
            )
        if main.model_options.get("context_handler") and not expert.model.model_options.get("context_handler"):
            logger.warning("%s: the main model has context windows, expert %d has none.", NODE, at)
        given = expert.model.model.latent_format
        same = type(given) is type(wanted) and given.scale_factor == wanted.scale_factor
        if not same or given.latent_channels != wanted.latent_channels:
            raise BadExperts(
                f"Expert {at} ({name_of(expert.model)}) works in the latent space {type(given).__name__} with "
                f"{given.latent_channels} channels, the main model in {type(wanted).__name__} with "
                f"{wanted.latent_channels}. Use experts made for the same VAE."
            )


@dataclass(frozen=True, eq=False)
class ExpertSwitch(Shared):
    """Experts from high noise to low, and how to switch. blend: width of the window around each border in which both
    models are evaluated and mixed, in half-logSNR; 0 is a hard switch."""

    experts: tuple[Expert, ...]
    blend: float = 0.0
    memory: str = "auto"
    decide_by: str = "sigma"

    @staticmethod
    def of(main: ModelPatcher, experts: Sequence[Expert], blend: float = 0.0, memory: str = "auto",
           decide_by: str = "sigma") -> ExpertSwitch:  # fmt: skip
        """Checked, and in order. Raises BadExperts."""
        check(main, experts)
        order = plan.sort_experts([expert.below for expert in experts])
        switch = ExpertSwitch(tuple(experts[i] for i in order), blend, memory, decide_by)
        models = [main, *(expert.model for expert in switch.experts)]
        gaps = [after - before for before, after in zip(switch.boundaries, switch.boundaries[1:-1])]
        if blend > min(gaps, default=math.inf):
            raise BadExperts(
                f"Two borders are {min(gaps):.2g} apart in half-logSNR, less than the blending window {blend:g}. Set "
                "blend to that or less."
            )
        if blend > 0 and any(a.is_clone(b) for a, b in zip(models, models[1:])):
            raise BadExperts(
                "Two neighbors are the same checkpoint with other patches, such as two LoRAs. They cannot be in "
                "memory at once, so they cannot blend: set blend to 0, or load the checkpoint twice."
            )
        return switch

    @property
    def boundaries(self) -> tuple[float, ...]:
        """Where each model's part ends, the main one's first."""
        return (*(expert.below for expert in self.experts), math.inf)

    @property
    def cfgs(self) -> tuple[float | None, ...]:
        """Each model's CFG, the main one's first; None is the sampler's."""
        return (None, *(expert.cfg for expert in self.experts))

    def patched(self, main: ModelPatcher) -> ModelPatcher:
        """A clone of the main model that gives way to its experts."""
        clone = main.clone()
        clone.set_attachments(KEY, tuple(expert.model for expert in self.experts))  # for whoever asks what is sampled
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self._run)
        clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _begin)
        if self.decide_by == "monotonic":
            options = clone.model_options.setdefault("transformer_options", {})
            options[REMEMBERS_STEPS] = "the Expert Switch (decide_by monotonic) remembers who acted"
        # In front of what the main model has already (style, caches), which is to act where the main model does.
        others = clone.wrappers.get(WrappersMP.PREDICT_NOISE, {})
        clone.wrappers[WrappersMP.PREDICT_NOISE] = {KEY: [_predict], **others}
        return clone

    def _run(self, executor: Any, *given: Any, latent_shapes: Any = None, **named: Any) -> Tensor:
        """OUTER_SAMPLE: one run, its experts around it."""
        guider = executor.class_obj
        options = guider.model_options.setdefault("transformer_options", {})
        run = options[KEY] = _Run(self, guider, latent_shapes)
        try:
            return run.around(executor, given, {**named, "latent_shapes": latent_shapes})
        finally:
            options.pop(KEY, None)
            run.started = None  # it holds options that hold the run
            run.experts.clear()


def _begin(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor,
    latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
) -> Tensor:  # fmt: skip
    """SAMPLER_SAMPLE: what experts need to encode their conditioning is known now."""
    run = extra_args["model_options"]["transformer_options"].get(KEY)
    if run is not None:
        run.begin(sigmas, extra_args, noise, latent_image, denoise_mask)
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)


def _predict(executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: Any = None) -> Tensor:
    """PREDICT_NOISE: who acts at this noise level?"""
    options = model_options or {}
    run = options.get("transformer_options", {}).get(KEY)
    if run is None or run.started is None:
        return executor(x, timestep, options, seed)
    return run.predict(executor, x, timestep, options, seed)


@dataclass
class _Run(Shared):
    """One sampling run. active: who is loaded now, 0 the main model. first: the level at which its sampler began to
    evaluate, which may lie below that of the schedule; None: it has not yet. furthest: the lowest noise since then."""

    switch: ExpertSwitch
    guider: Any
    latent_shapes: Any
    active: tuple[int, ...] | None = (0,)
    first: float | None = None
    furthest: float = -math.inf
    started: Started | None = None
    steps: list[plan.Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flow = is_flow(self.guider.model_patcher)
        self.experts = [ExpertGuider(expert, self.guider) for expert in self.switch.experts]

    def around(self, executor: Any, given: tuple, named: dict) -> Tensor:
        """The run inside of every expert's own wrappers: caches and guidance of an expert prepare themselves there."""
        with ExitStack() as stack:
            for expert in self.experts:
                stack.enter_context(expert.prepared())
            inner: Callable[..., Tensor] = executor
            for expert in reversed(self.experts):
                wrappers = get_all_wrappers(WrappersMP.OUTER_SAMPLE, expert.model_options, is_model_options=True)
                inner = WrapperExecutor.new_class_executor(inner, expert, wrappers).execute
            try:
                return inner(*given, **named)
            finally:
                logger.info("%s:\n%s", NODE, plan.format_table(self.steps, self.names(), self.flow))

    def conds(self) -> list[Mapping[str, Any]]:
        """All that the experts' prompts hold, for whoever asks what is sampled."""
        lists = [listed for expert in self.experts for listed in expert.original_conds.values()]
        return [cond for listed in lists for cond in listed or ()]

    def names(self) -> list[str]:
        first = f"main model ({name_of(self.guider.model_patcher)})"
        return [first, *(f"expert {at} ({name_of(expert.model_patcher)})" for at, expert in enumerate(self.experts, 1))]

    def begin(self, sigmas: Tensor, extra_args: dict, noise: Tensor, latent_image: Any, denoise_mask: Any) -> None:
        """A sampler starts, with what experts need to encode their prompts when their part comes."""
        schedule = [half_log_snr(float(sigma), self.flow) for sigma in sigmas]
        self.started = Started(schedule, sigmas, extra_args["model_options"], noise, latent_image, denoise_mask,
                                extra_args.get("seed"))  # fmt: skip
        self.first = None
        if self.steps:  # a second sampler within the run
            self.steps.clear()
            self.active = None
            for expert in self.experts:
                expert.release()

    def predict(self, executor: Any, x: Tensor, sigma: Tensor, options: dict, seed: Any) -> Tensor:
        """x0 by whoever acts at this noise level."""
        assert self.started is not None
        level = half_log_snr(float(sigma.flatten()[0]), self.flow)
        if self.switch.decide_by == "monotonic":
            self.first = level if self.first is None else self.first
            if level <= self.first + LEVEL_TOLERANCE:  # from the start: another trial of a search
                self.furthest = -math.inf
            level = self.furthest = max(level, self.furthest)
        shared = plan.blend_weights(level, self.switch.boundaries, self.switch.blend)
        self.load(tuple(who for who, _ in shared))
        self.note(level, tuple(who for who, _ in shared))
        if len(shared) == 1:
            return self.by(shared[0][0], executor, x, sigma, options, seed)
        known = self.started.options.get(POST_CFG, ())
        predict = lambda who, given: self.by(who, executor, x, sigma, given, seed)  # noqa: E731
        return blended(shared, predict, options, known, x, sigma)

    def by(self, who: int, executor: Any, x: Tensor, sigma: Tensor, options: dict, seed: Any) -> Tensor:
        """One model's x0."""
        return executor(x, sigma, options, seed) if who == 0 else self.expert(who, x, sigma, options, seed)

    def note(self, level: float, who: tuple[int, ...]) -> None:
        """One line per step: samplers evaluate in between, too."""
        start = plan.step_start(level, self.started.schedule) if self.started else level
        if not self.steps or self.steps[-1].level != start or self.steps[-1].who != who:
            own = self.switch.cfgs[who[0]]  # None is the sampler's, which may take a preset's place
            self.steps.append(plan.Step(start, who, None if own is None else self.experts[who[0] - 1].cfg))

    def expert(self, who: int, x: Tensor, sigma: Tensor, options: dict, seed: Any) -> Tensor:
        expert, started = self.experts[who - 1], self.started
        assert started is not None
        x, sigma = convert_latent(x, sigma, self.flow, expert.flow, expert.most)
        return expert.predict(x, sigma, _with_added(expert.called, started.options, options), seed)

    def load(self, who: tuple[int, ...]) -> None:
        """Have these models in memory, and their prompts encoded."""
        if who == self.active:
            return
        gone = [at for at in self.active or () if at not in who]
        if self.switch.memory == "unload":
            for at in gone:
                if any(self.patcher(at).is_clone(self.patcher(other)) for other in who):
                    continue  # its weights are wanted, with other patches
                comfy.model_management.unload_model_and_clones(self.patcher(at))
        self.active = None  # until all are there: an error on the way leaves it open who is
        for at in who:
            more = [self.patcher(other) for other in who if other != at]
            if self.switch.memory == "keep":
                more += [self.patcher(other) for other in range(len(self.experts) + 1) if other not in who]
            once = {id(other.model): other for other in more if not other.is_clone(self.patcher(at))}
            self.bring(at, list(once.values()))
        self.active = who

    def patcher(self, who: int) -> ModelPatcher:
        return self.guider.model_patcher if who == 0 else self.experts[who - 1].model_patcher

    def bring(self, who: int, more: list[ModelPatcher]) -> None:
        """Load one model; `more` stay in memory beside it."""
        assert self.started is not None
        if who > 0:
            self.experts[who - 1].load(self.started, more, self.latent_shapes, self.flow)
        else:
            options, noise = self.guider.model_options, self.started.noise
            load_beside(self.guider.model_patcher, self.guider.conds, options, noise, more)


def _with_added(own: dict, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict:
    """An expert's options with what a sampler added to the main model's for this call, such as post-CFG functions."""
    out = own.copy()
    for key, value in now.items():
        known = before.get(key)
        if value is known or key in ("transformer_options", "to_load_options", "multigpu_clones"):
            continue
        if isinstance(value, list):
            out[key] = [*out.get(key, ()), *(one for one in value if not any(one is old for old in known or ()))]
        else:
            out[key] = value
    return out
