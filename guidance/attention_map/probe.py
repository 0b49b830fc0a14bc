"""Looks into a model's attention at chosen noise levels: single evaluations inside ComfyUI's sampling, no steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...attention import hooks
from ...attention.packed import picture_of
from ...attention.recorders import SaliencyRecorder
from ...attention.run import AttentionWrapper, Record, Run, Shared
from ...attention.sites import BlockId
from ..gradients.refusals import refuse_step_caches
from ..sag import formulas
from ..token_pictures import saliency_map, token_picture
from .recorders import PhraseViewer, PointViewer


@dataclass(frozen=True)
class Look:
    """What to look for. tokens: of a phrase in the prompt; point: x, y as fractions; empty or None: not wanted."""

    blocks: frozenset[BlockId]
    threshold: float = 1.0
    tokens: tuple[int, ...] = ()
    point: tuple[float, float] | None = None


@dataclass(frozen=True)
class Level:
    """What was seen at a noise level. x0: the model's estimate, a latent; with sound, the video alone. maps: name ->
    [batch, 1, *latent size]."""

    percent: float
    sigma: float
    x0: Tensor
    maps: Mapping[str, Tensor]


def look(
    model: Any, positive: list, latent: Mapping[str, Any], percents: Sequence[float], seed: int, wanted: Look,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Level]:  # fmt: skip
    """Evaluate the model once per noise level on the noised latent, without CFG, and return what its attention shows.

    percents: places in the schedule, 0 the first step, 1 the last. positive: of several entries, each level shows the
    first that acts there. Raises ValueError if a map could not be recorded, NoGradient for a model with a step cache,
    which would show a level the map of the one before.
    """
    refuse_step_caches(model)
    if model.model_options.get("context_handler") is not None:
        raise ValueError("The model evaluates long videos in windows (Context Windows): connect it without them.")
    patched = model.clone()
    viewing = _Viewing(wanted, [])
    hooks.install(patched, viewing)
    patched.set_model_sampler_post_cfg_function(viewing.post_cfg)
    guider = comfy.samplers.CFGGuider(patched)
    guider.inner_set_conds({"positive": positive})
    guider.set_cfg(1.0)
    samples = comfy.sample.fix_empty_latent_channels(patched, latent["samples"], latent.get("downscale_ratio_spacial"))
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    sampling = patched.get_model_object("model_sampling")
    lowest, highest = float(sampling.sigma_min), float(sampling.sigma_max)
    sigmas = [min(max(float(sampling.percent_to_sigma(p)), lowest), highest) for p in percents]
    guider.sample(noise, samples, _LevelByLevel(progress), torch.tensor(sigmas), disable_pbar=True, seed=seed)
    if len(viewing.seen) != len(sigmas):
        raise ValueError(
            "At some of these levels another model is evaluated (Expert Switch), or none (nodes that skip steps): "
            "connect the model that acts at the levels you want to see, without such nodes."
        )
    return [Level(p, s, *seen) for p, s, seen in zip(percents, sigmas, viewing.seen)]


class _LevelByLevel(comfy.samplers.Sampler):
    """A sampler that takes no step: it evaluates the model at every level on the same latent with the same noise."""

    starts_itself = True  # nodes that change the starting noise leave it (starting_noise.py): no level begins a run

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self.progress = progress

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """Called by ComfyUI in its run, as for every sampler; gives the latent back as it was."""
        for i, sigma in enumerate(sigmas):
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = model_wrap.inner_model.model_sampling.noise_scaling(sigma, noise, latent_image)
            model_wrap(x, sigma.expand(x.shape[0]), **extra_args)
            self.progress(i + 1, len(sigmas))
        return latent_image


@dataclass(frozen=True, eq=False)
class _Viewing(Shared):
    """The technique of one look; `seen` gets (x0, maps) of every evaluation."""

    wanted: Look
    seen: list[tuple[Tensor, dict[str, Tensor]]]

    def begin(self, run: Run) -> Sequence[AttentionWrapper]:
        """A wrapper for each map that is wanted, new at every level."""
        attention_wrappers: dict[str, AttentionWrapper] = {"saliency": SaliencyRecorder(self.wanted.blocks)}
        if self.wanted.tokens:
            attention_wrappers["phrase"] = PhraseViewer(None, tokens=self.wanted.tokens)
        if self.wanted.point is not None:
            attention_wrappers["point"] = PointViewer(self.wanted.blocks, point=self.wanted.point)
        self._taps(run).update(attention_wrappers)
        return tuple(attention_wrappers.values())

    def _taps(self, run: Run) -> dict[str, Any]:
        return run.state(self, dict[str, Any])

    def post_cfg(self, args: dict[str, Any]) -> Tensor:
        """Adds what this level shows to `seen`; the prediction stays as it is. Raises ValueError without a map."""
        run = hooks.run_of(args["model_options"])
        assert run is not None
        attention_wrappers = self._taps(run)
        conds = args["cond"]
        shown = _first_active(conds, args["input"], args["sigma"])
        records = [record for block in sorted(self.wanted.blocks) for _, record in run.records(block, conds, shown)]
        saliency = _average(records, relative=True, what="self-attention")
        maps = {"saliency": saliency, "mask": formulas.guidance_mask(saliency, self.wanted.threshold, "threshold")}
        for name in ("phrase", "point"):
            if name in attention_wrappers:
                kept = sorted(attention_wrappers[name].records.items())
                recorded = [record for (_, position), record in kept if position == shown]
                maps[name] = _average(recorded, relative=False, what=f"attention of the {name}")
        x0 = run.model.process_latent_out(picture_of(args["denoised"], run.shapes))
        self.seen.append((x0.float().cpu(), maps))
        return args["denoised"]


def _first_active(conds: Sequence[Mapping[str, Any]], x: Tensor, sigma: Tensor) -> int:
    """Which of a prompt's entries is shown at a noise level. Raises ValueError where none can be."""
    for position, cond in enumerate(conds):
        if comfy.samplers.get_area_and_mult(cond, x, sigma) is None:
            continue
        if cond.get("area") is not None:
            raise ValueError("The prompt is for a part of the picture (Conditioning Set Area): give one for all of it.")
        return position
    raise ValueError("The prompt is not active at all levels (ConditioningSetTimestepRange): change levels.")


def _average(records: Sequence[Record], relative: bool, what: str) -> Tensor:
    """Mean of maps of several blocks at the latent's size: [batch, 1, *size]. relative: each against its own mean."""
    if not records:
        raise ValueError(
            f"No {what} was seen in the chosen blocks. Another node may merge or tile tokens there, or replace them: "
            "choose other blocks."
        )
    total = torch.zeros(())
    for record in records:
        spread = saliency_map if relative else token_picture
        total = total + spread(record.values.float().cpu(), record.grid, record.latent_size, extent=record.extent)
    return total / len(records)
