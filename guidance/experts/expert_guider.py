"""An expert's guider: prepared like one that samples, it is only ever asked for predictions."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.hooks
import comfy.model_patcher
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from .. import cond_inputs
from ..additional_models import additional_models, all_with_additional_models
from ..cond_inputs import further_inputs
from ..hook_keyframes import keyframed, own_keyframes, set_to_level
from ..noise_levels import convert_sigma
from .plan import BadExperts

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)
NODE = "Expert Switch"
# Widths of text features that a network's configuration may name.
TEXT_WIDTHS = ("context_dim", "context_in_dim", "text_dim", "cap_feat_dim")


@dataclass(frozen=True, eq=False)
class Expert:
    """A model and where it takes over. below: half-logSNR. cfg: None is the sampler's. preset_cfg: the CFG comes from a
    preset, which leaves a sampler's CFG of 1 alone. positive, negative: CONDITIONING of its own, None the sampler's."""

    model: ModelPatcher
    below: float
    cfg: float | None = None
    positive: list | None = None
    negative: list | None = None
    preset_cfg: bool = False

    def get_models(self) -> list[ModelPatcher]:
        """For ComfyUI, which keeps models that a prompt still needs."""
        return [self.model]


@dataclass
class Started:
    """What a sampler was started with. schedule: its noise levels as half-logSNR."""

    schedule: list[float]
    sigmas: Tensor
    options: Mapping[str, Any]
    noise: Tensor
    latent_image: Tensor | None
    denoise_mask: Tensor | None
    seed: Any


def is_flow(patcher: ModelPatcher) -> bool:
    """Whether a model's noise levels are a flow's (0 to 1) and not variance exploding. Raises BadExperts for others."""
    sampling = patcher.get_model_object("model_sampling")
    known = comfy.model_sampling
    others = [getattr(known, name, ()) for name in ("IMG_TO_IMG", "IMG_TO_IMG_FLOW", "COSMOS_RFLOW")]
    if not any(isinstance(sampling, other) for other in others):
        if isinstance(sampling, known.CONST):
            return True
        if isinstance(sampling, known.EPS):
            return False
    raise BadExperts(
        f"{name_of(patcher)} is sampled in a way of its own ({type(sampling).__name__}). Experts can be models that "
        "predict noise, v or a flow."
    )


def name_of(patcher: ModelPatcher) -> str:
    """A model's name for reports: ComfyUI knows no file names."""
    return type(patcher.model).__name__


def cfg_of(expert: Expert, outer: float) -> float:
    """An expert's CFG beside that of the sampler."""
    leaves = expert.cfg is None or (expert.preset_cfg and math.isclose(outer, 1.0))
    return outer if leaves else float(expert.cfg or 0.0)


def _say_what_is_lacking(expert: Expert, outer: Mapping[str, list], own: Mapping[str, list]) -> None:
    """Warn where an expert's own prompt has not the pictures and ControlNets of the sampler's."""
    for which, conds in own.items():
        there = {key for cond in outer.get(which, ()) for key in further_inputs(cond)}
        lacking = sorted(there - {key for cond in conds for key in cond})
        if lacking:
            named = ", ".join(cond_inputs.NAMES.get(key, key) for key in lacking)
            logger.warning(
                "%s: the %s prompt of the expert %s lacks what the sampler's has: %s. Pass its own prompt through the "
                "same nodes.", NODE, which, name_of(expert.model), named,
            )  # fmt: skip


class ExpertGuider(comfy.samplers.CFGGuider):
    """An expert's guider. It is prepared like one that samples, and only ever predicts."""

    def __init__(self, expert: Expert, outer: Any) -> None:
        super().__init__(expert.model.clone())  # hooks are registered on it: two nodes may have one model
        self.model_patcher: ModelPatcher
        self.model_options: dict[str, Any]
        self.original_conds: dict[str, list]
        self.expert, self.outer, self.flow = expert, outer, is_flow(expert.model)
        self.most = float(expert.model.get_model_object("model_sampling").sigma_max)
        self.cfg = cfg_of(expert, outer.cfg)
        self.inner_model: Any = None
        self.loaded: list[Any] = []  # further models, such as ControlNets, that came into memory with it
        self.in_memory = False
        self.plain_conds: dict[str, list] = {}
        self.called: dict[str, Any] = {}
        self.keyframed: list[comfy.hooks.Hook] = []
        self.latent_shapes_before: Any = None
        own = {"positive": expert.positive, "negative": expert.negative}
        self.inner_set_conds({name: conds for name, conds in own.items() if conds is not None})
        _say_what_is_lacking(expert, outer.original_conds, self.original_conds)
        # What the sampler's prompts bring is for the whole run: a scorer, say.
        more = [model for conds in outer.original_conds.values() for cond in conds for model in additional_models(cond)]
        given = {**outer.original_conds, **all_with_additional_models(self.original_conds, more)}
        controls: dict[int, Any] = {}
        self.original_conds = {name: [_with_own_control(cond, controls) for cond in conds]
                               for name, conds in given.items()}  # fmt: skip
        hooked = any(comfy.sampler_helpers.cond_has_hooks([(None, cond) for cond in conds])
                     for conds in self.original_conds.values())  # fmt: skip
        if hooked and self.model_patcher.is_dynamic():
            self.model_patcher = self.model_patcher.get_non_dynamic_delegate()
        # A guider that predicts in its own way (two scales, say) does so for the expert, too.
        self.usual = type(outer).predict_noise is comfy.samplers.CFGGuider.predict_noise
        self._check()

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """As ComfyUI prepares a guider that samples: hooks, wrappers, options; undone afterwards."""
        patcher, options = self.model_patcher, comfy.model_patcher.create_model_options_clone(self.model_options)
        kept, mode = self.model_options, patcher.hook_mode
        self.model_options = options
        self.plain_conds = _copies(self.original_conds)
        comfy.samplers.preprocess_conds_hooks(self.plain_conds)
        try:
            if comfy.samplers.get_total_hook_groups_in_conds(self.plain_conds) <= 1:
                patcher.hook_mode = comfy.hooks.EnumHookMode.MinVram
            comfy.sampler_helpers.prepare_model_patcher(patcher, self.plain_conds, options)
            comfy.samplers.filter_registered_hooks_on_conds(self.plain_conds, options)
            self.plain_conds = own_keyframes(self.plain_conds)
            comfy.samplers.cast_to_load_options(options, device=patcher.load_device, dtype=patcher.model_dtype())
            self.conds = _copies(self.plain_conds)
            self._check_width()
            yield
        finally:
            comfy.samplers.cast_to_load_options(options, device=patcher.offload_device)
            self.release()
            self.model_options, patcher.hook_mode = kept, mode
            patcher.restore_hook_patches()

    def _check(self) -> None:
        """Raise BadExperts for prompts that are missing, and for guiders with models of their own."""
        name = name_of(self.model_patcher)
        if type(self.outer).outer_sample is not comfy.samplers.CFGGuider.outer_sample:
            raise BadExperts(
                f"{type(self.outer).__name__} brings a model of its own for one of the prompts, which experts cannot "
                "follow. Use CFGGuider or KSampler."
            )
        for which, conds in self.original_conds.items():
            if not conds and self._evaluates(which):
                raise BadExperts(f"The {which} prompt of the expert {name} is empty: connect a conditioning.")
        if self.usual and not math.isclose(self.cfg, 1.0) and "negative" not in self.original_conds:
            raise BadExperts(
                f"The expert {name} has CFG {self.cfg:g}, but there is no negative prompt. Connect one to its Expert "
                "node, or set its cfg to 1."
            )

    def _evaluates(self, which: str) -> bool:
        """Whether a prompt of this name is evaluated: at CFG 1 nobody asks for the negative one."""
        return not (self.usual and which == "negative" and math.isclose(self.cfg, 1.0))

    def load(self, started: Started, more: list[ModelPatcher], latent_shapes: Any, flow: bool) -> None:
        """Have the model in memory and its prompts encoded. more: models that stay in memory beside it; flow: whether
        the main model is a flow model."""
        self.in_memory = True
        loaded = load_beside(self.model_patcher, self.conds, self.model_options, started.noise, more)
        self.loaded += [model for model in loaded if model not in more]
        if self.inner_model is None:
            self._encode(started, latent_shapes, flow)

    def _encode(self, started: Started, latent_shapes: Any, flow: bool) -> None:
        """Encode the conditioning by the expert, as ComfyUI does once per run."""
        self.plain_conds = _copies(self.conds)  # with what the expert's own wrappers have added
        self.model_patcher.pre_run()
        model, device = self.model_patcher.model, self.model_patcher.load_device
        if hasattr(model, "latent_shapes"):  # newer ComfyUI: models that pack several latents read it
            self.latent_shapes_before, model.latent_shapes = model.latent_shapes, latent_shapes
        conds = comfy.samplers.process_conds(
            model, started.noise, self.conds, device, started.latent_image, started.denoise_mask, started.seed,
            latent_shapes=latent_shapes,
        )  # fmt: skip
        self.called = comfy.model_patcher.create_model_options_clone(self.model_options)
        sigmas = convert_sigma(started.sigmas, flow, self.flow, self.most)
        self.called.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
        self.conds, self.inner_model = conds, model
        self.keyframed = keyframed(cond for listed in conds.values() for cond in listed)

    def _check_width(self) -> None:
        """Raise BadExperts for a prompt that another text encoder made."""
        config = getattr(self.model_patcher.model.model_config, "unet_config", {})
        wanted = next((config[name] for name in TEXT_WIDTHS if isinstance(config.get(name), int)), None)
        for name, conds in self.conds.items():
            for cond in conds if self._evaluates(name) else ():
                features = cond.get("cross_attn")
                if wanted is not None and features is not None and features.shape[-1] != wanted:
                    raise BadExperts(
                        f"The {name} prompt has features of width {features.shape[-1]}, but the expert "
                        f"{name_of(self.model_patcher)} reads {wanted}: it was encoded for another model. Encode it "
                        "with that expert's own CLIP and connect it to positive and negative of its Expert node."
                    )

    def predict(self, x: Tensor, sigma: Tensor, options: dict, seed: Any) -> Tensor:
        """x0 [batch, ...] of a latent at the expert's noise levels [batch], as the outer guider combines prompts."""
        schedule = self.called["transformer_options"]["sample_sigmas"]
        set_to_level(self.keyframed, schedule, sigma.flatten()[0], [self.model_patcher])
        if self.usual:
            return self.outer_predict_noise(x, sigma, options, seed)
        wrappers = get_all_wrappers(WrappersMP.PREDICT_NOISE, self.model_options, is_model_options=True)
        own = {name: getattr(self, name) for name in ("inner_model", "conds", "model_patcher", "cfg")}
        with _swapped(self.outer, **own):
            return WrapperExecutor.new_class_executor(self.outer.predict_noise, self.outer, wrappers).execute(
                x, sigma, options, seed
            )

    def release(self) -> None:
        """Back to before the expert was used."""
        if not self.in_memory:
            return
        if self.inner_model is not None:
            if hasattr(self.inner_model, "latent_shapes"):
                self.inner_model.latent_shapes = self.latent_shapes_before
            comfy.sampler_helpers.cleanup_models(self.conds, [])
        self.model_patcher.cleanup()
        comfy.sampler_helpers.cleanup_additional_models(self.loaded)
        self.inner_model, self.loaded, self.in_memory, self.conds = None, [], False, _copies(self.plain_conds)


def load_beside(
    patcher: ModelPatcher, conds: Mapping[str, list], options: dict, noise: Tensor, more: list[ModelPatcher]
) -> list[Any]:
    """Load a model as ComfyUI does for a run, with `more` kept in memory beside it. Returns what came along."""
    conds = all_with_additional_models(conds, more)
    _, _, loaded = comfy.sampler_helpers.prepare_sampling(patcher, noise.shape, conds, options)
    patcher.model.current_patcher = patcher  # clones of one checkpoint take turns in it
    return loaded


def _copies(conds: Mapping[str, list]) -> dict[str, list]:
    """Every list with conds of its own, which ComfyUI may then change."""
    return {name: [cond.copy() for cond in listed] for name, listed in conds.items()}


def _with_own_control(cond: Mapping[str, Any], known: dict[int, Any]) -> dict:
    """A cond whose ControlNets are copies: they remember the model they were prepared for. The nets are shared."""
    if cond.get("control") is None:
        return dict(cond)

    def copied(control: Any) -> Any:
        if id(control) not in known:
            known[id(control)] = copy = control.copy()
            if control.previous_controlnet is not None:
                copy.set_previous_controlnet(copied(control.previous_controlnet))
        return known[id(control)]

    return {**cond, "control": copied(cond["control"])}


@contextmanager
def _swapped(target: Any, **values: Any) -> Iterator[None]:
    kept = {name: getattr(target, name) for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(target, name, value)
