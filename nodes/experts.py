"""Nodes for experts by noise level: several models share one sampling run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.samplers
from comfy_api.latest import io

from ..guidance import noise_levels
from ..guidance.experts import plan
from ..guidance.experts.expert_guider import NODE, Expert, is_flow, name_of
from ..guidance.experts.model_patch import DECIDE_BY, MEMORY, ExpertSwitch
from ..guidance.experts.plan import PRESETS
from .ui import errors, notices

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

ExpertsType = io.Custom("FOVEA_EXPERTS")
Experts = tuple[Expert, ...]
MAX_EXPERTS = 16
KINDS = ("sigma", "timestep", "percent", "SNR dB")
ALIASES = ["expert denoisers", "eDiff-I", "Wan 2.2 MoE", "high noise low noise", "SDXL refiner", "model switch",
           "mixture of experts"]  # fmt: skip
GOALS = ["two models", "dual model", "high low noise", "Wan 2.2 two models"]


class FoveaExpert(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaExpert",
            display_name="Expert",
            category="Fovea/experts",
            description=(
                "A model that takes over sampling below a noise level, with its own LoRAs, patches, prompts and CFG. "
                "Chain several; connect the last to Expert Switch, whose model starts."
            ),
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model that takes over. It needs the same VAE as the first one."),
                io.Combo.Input(
                    "boundary_unit", options=[*KINDS, *PRESETS], default="sigma",
                    tooltip="Unit of boundary: sigma; timestep as a fraction of all, 1 the noisiest; percent of this "
                    "model's schedule, 0 to 1; signal to noise in dB. Or a preset, which has its own boundary and CFG.",
                ),
                io.Float.Input(
                    "boundary", default=0.875, min=-200.0, max=1000.0, step=0.0005, round=False,
                    tooltip="Where this model takes over; the level itself still belongs to the noisier side. Not used "
                    "with a preset.",
                ),
                io.Float.Input(
                    "cfg", default=-1.0, min=-1.0, max=100.0, step=0.1,
                    tooltip="This model's CFG. 1 leaves out the negative prompt and halves its cost. -1: the preset's "
                    "(a sampler's CFG of 1 stays), or the sampler's.",
                ),
                io.Conditioning.Input(
                    "positive", optional=True,
                    tooltip="A prompt of its own, needed where the model has another text encoder. Else the sampler's.",
                ),
                io.Conditioning.Input("negative", optional=True,
                                      tooltip="A negative prompt of its own. Else the sampler's."),
                ExpertsType.Input("experts", optional=True, tooltip="The experts so far."),
            ],
            outputs=[ExpertsType.Output(display_name="experts", tooltip="The experts so far, with this one.")],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Expert")
    def execute(
        cls, model: ModelPatcher, boundary_unit: str, boundary: float, cfg: float, positive: list | None = None,
        negative: list | None = None, experts: Experts | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        preset = PRESETS.get(boundary_unit)
        kind, value = (preset.kind, preset.below) if preset else (boundary_unit, boundary)
        own = cfg if cfg >= 0 else preset.cfg if preset else None
        try:
            flow = is_flow(model)
            sigma = noise_levels.sigma_from(kind, value, model.get_model_object("model_sampling"), flow)
        except ValueError as why:
            raise ValueError(f"{why}.".replace("..", ".")) from None
        if len(experts or ()) >= MAX_EXPERTS:
            raise ValueError(f"{MAX_EXPERTS} experts at most.")
        below, from_preset = noise_levels.half_log_snr(sigma, flow), cfg < 0 and own is not None
        added = Expert(model, below, own, positive, negative, preset_cfg=from_preset)
        return io.NodeOutput((*(experts or ()), added))


def _switch_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "blend", default=0.0, min=0.0, max=4.0, step=0.05,
            tooltip="Width of the window around each border in which both models are evaluated and mixed, in "
            "half-logSNR (1 is 8.7 dB). 0: a hard switch, which costs nothing.",
        ),
        io.Combo.Input(
            "memory", options=list(MEMORY), default="auto",
            tooltip="auto: ComfyUI makes room as it sees fit. keep: it is asked to hold all models at once. unload: "
            "the model that gave way leaves the graphics memory at once.",
        ),
        io.Combo.Input(
            "decide_by", options=list(DECIDE_BY), default="sigma",
            tooltip="sigma: by the noise level of every evaluation. monotonic: a model that has given way stays out, "
            "also where a sampler (heunpp2, dpm_adaptive, restarts) goes back to more noise.",
        ),
    ]  # fmt: skip


class FoveaExpertSwitch(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaExpertSwitch",
            display_name=NODE,
            category="Fovea/experts",
            description=(
                "Several models share one sampling run, each in its own range of noise, under any sampler: one noise, "
                "one schedule, one mask, one preview. A step costs what one model costs."
            ),
            search_aliases=[*ALIASES, *GOALS],
            inputs=[
                io.Model.Input("model", tooltip="The model that starts, at the highest noise. Its schedule is used."),
                ExpertsType.Input("experts", tooltip="The models that take over, in any order."),
                *_switch_inputs(),
                io.Sigmas.Input("sigmas", optional=True, tooltip="A schedule, for a report step by step only."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For any sampler or guider."),
                io.String.Output(display_name="report", tooltip="Who acts where; with sigmas, at each step."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NODE)
    def execute(
        cls, model: ModelPatcher, experts: Experts, blend: float, memory: str, decide_by: str,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        switch = ExpertSwitch.of(model, experts, blend, memory, decide_by)
        return io.NodeOutput(switch.patched(model), report(switch, model, sigmas))


class FoveaExpertGuider(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaExpertGuider",
            display_name="Expert Guider",
            category="Fovea/experts",
            description="Expert Switch and CFG in one, for SamplerCustomAdvanced.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model that starts, at the highest noise."),
                ExpertsType.Input("experts", tooltip="The models that take over, in any order."),
                io.Conditioning.Input("positive", tooltip="The prompt, for all models that have none of their own."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, likewise."),
                io.Float.Input("cfg", default=4.0, min=0.0, max=100.0, step=0.1,
                               tooltip="CFG of all models that have none of their own."),
                *_switch_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Expert Guider")
    def execute(
        cls, model: ModelPatcher, experts: Experts, positive: list, negative: list, cfg: float, blend: float,
        memory: str, decide_by: str,
    ) -> io.NodeOutput:  # fmt: skip
        switch = ExpertSwitch.of(model, experts, blend, memory, decide_by)
        guider = _SwitchGuider(switch.patched(model), switch)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class _SwitchGuider(comfy.samplers.CFGGuider):
    """Tells ComfyUI which models it holds, so that none is thrown away while the prompt runs."""

    def __init__(self, model: ModelPatcher, switch: ExpertSwitch) -> None:
        super().__init__(model)
        self._switch = switch

    def get_models(self) -> list[ModelPatcher]:
        return [self.model_patcher, *(expert.model for expert in self._switch.experts)]


class FoveaExpertSigmas(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaExpertSigmas",
            display_name="Expert Sigmas",
            category="Fovea/experts",
            description=(
                "A schedule for several experts: exactly as many steps for each as asked, each with its own shift. No "
                "search for a shift that happens to fit."
            ),
            search_aliases=[*ALIASES, "scheduler", "shift", "boundary"],
            inputs=[
                io.Model.Input("model", tooltip="The model that starts. The schedule is in its noise levels."),
                ExpertsType.Input("experts", tooltip="The models that take over."),
                io.String.Input("steps_per_model", default="10, 10",
                                tooltip="Steps of each model, from the one that starts to the last, with commas."),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom or SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Expert Sigmas")
    def execute(cls, model: ModelPatcher, experts: Experts, steps_per_model: str) -> io.NodeOutput:
        switch = ExpertSwitch.of(model, experts, 0.0, "auto", "sigma")
        counts = [part.strip() for part in steps_per_model.split(",") if part.strip()]
        if not all(count.isdecimal() and int(count) <= 10_000 for count in counts):
            raise ValueError(
                f"steps_per_model is {steps_per_model!r}. Write a whole number for each model, such as: 10, 10"
            )
        models = [model, *(expert.model for expert in switch.experts)]
        return io.NodeOutput(plan.piecewise(
            [each.get_model_object("model_sampling") for each in models], [is_flow(each) for each in models],
            switch.boundaries, [int(count) for count in counts],
        ))  # fmt: skip


def report(switch: ExpertSwitch, model: ModelPatcher, sigmas: Tensor | None) -> str:
    """Who acts where; with a schedule, step by step."""
    flow = is_flow(model)
    names = [f"model ({name_of(model)})",
             *(f"expert {at} ({name_of(expert.model)})" for at, expert in enumerate(switch.experts, 1))]  # fmt: skip
    text = plan.format_ranges(names, switch.boundaries, switch.cfgs, flow)
    if sigmas is None or len(sigmas) < 2:
        return text
    schedule = [noise_levels.half_log_snr(float(sigma), flow) for sigma in sigmas]
    steps = plan.plan_steps(schedule, switch.boundaries, switch.cfgs, switch.blend)
    silent = sorted(set(range(len(names))) - {who for step in steps for who in step.who})
    notes = [f"{names[who]} has no step in this schedule." for who in silent]
    if 0 in silent:
        notes.append("The schedule begins below the first border: connect the expert's model directly.")
    table = [text, plan.format_table(steps, names, flow)]
    return "\n".join([*table, notices.report(NODE, notes)] if notes else table)


NODES = [FoveaExpert, FoveaExpertSwitch, FoveaExpertGuider, FoveaExpertSigmas]
