"""What Optimize Latent asks for: its presets, each with the inputs that matter to it."""

from __future__ import annotations

from dataclasses import fields

from comfy_api.latest import io

from ...guidance.crops import RESIZE
from ...guidance.noise_optimization import update_rules
from ...guidance.noise_optimization.config import GRADIENT_PATHS, MODES
from ...guidance.noise_optimization.losses import SALIENT_VIEWS
from ...guidance.noise_optimization.presets import PRESETS, Preset

# The inputs that a preset shows; the rest is as published.
_OF_THE_PAPERS = ("iterations", "candidates", "learning_rate")
SHOWN = {
    "default": ("iterations", "candidates", "salient_weight"),
    "SGOOL": (*_OF_THE_PAPERS, "salient_weight", "saliency_interval"),
    "DOODL": (*_OF_THE_PAPERS, "view_resize"), "ReNO": _OF_THE_PAPERS,
    "custom": tuple(field.name for field in fields(Preset)),
}  # fmt: skip


def inputs_of(preset: str) -> list[io.Input]:
    """What can be set of a preset, with its own values first."""
    shown, usual = SHOWN[preset], PRESETS[preset]
    every: list[io.Input] = [
        io.Int.Input("iterations", default=usual.iterations, min=0, max=1000, optional=True,
                     tooltip="How often the noise is changed; 50 in the papers. 0: only the candidates."),
        io.Int.Input("candidates", default=usual.candidates, min=1, max=1000, optional=True,
                     tooltip="Try so many noises first, and go on with the best. 1 in the papers."),
        io.Float.Input("learning_rate", default=usual.learning_rate, min=0.0, max=1000.0, step=0.1, optional=True,
                       tooltip="How far each change goes: a factor on the rule's own step. 0 changes nothing."),
        io.Combo.Input("update_rule", options=list(update_rules.RULES), default=usual.update_rule, optional=True,
                       tooltip="doodl: clamped gradient, momentum, length kept (SGOOL too). reno: clipped by "
                       "norm, for models of one to four steps. spherical: turns the noise by 3 % of its length."),
        io.Combo.Input("gradient_path", options=list(GRADIENT_PATHS), default=usual.gradient_path, optional=True,
                       tooltip="past_model: faster, with almost any model, but only a direction. last_steps: "
                       "exact through the last backprop_steps steps. all_steps: exact through all steps."),
        io.Int.Input("backprop_steps", default=usual.backprop_steps, min=1, max=1000, optional=True,
                     tooltip="For gradient_path last_steps: through how many steps the gradient goes."),
        io.Float.Input("salient_weight", default=usual.salient_weight, min=0.0, max=1.0, step=0.05, optional=True,
                       tooltip="Share of the salient parts in the loss (SGOOL: above 0, such as 0.5). 0 looks "
                       "at the whole picture only."),
        io.Combo.Input("salient_views", options=list(SALIENT_VIEWS), default=usual.salient_views, optional=True,
                       tooltip="crops: around the map's bright parts (SGOOL). cutouts: random squares, drawn "
                       "where the map is bright."),
        io.Int.Input("saliency_interval", default=usual.saliency_interval, min=1, max=100, optional=True,
                     advanced=True, tooltip="Look for the salient parts anew every so many trials."),
        io.Int.Input("cutouts", default=usual.cutouts, min=0, max=64, optional=True, advanced=True,
                     tooltip="0 scores the whole picture. n: n random squares, of which the best counts."),
        io.Combo.Input("view_resize", options=list(RESIZE), default=usual.view_resize, optional=True, advanced=True,
                       tooltip="How squares are brought to the scorer's size. average pooling is DOODL's."),
        io.Combo.Input("mode", options=list(MODES), default=usual.mode, optional=True, advanced=True,
                       tooltip="checkpoint keeps a latent per step. invertible is EDICT: keeps none, at twice "
                       "the time; needs gradient_path all_steps."),
    ]  # fmt: skip
    return [each for each in every if each.id in shown]
