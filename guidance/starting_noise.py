"""The starting noise of a run, changed once before its first step: with any sampler, by any number of nodes.

Only the noise is changed, in units of its own standard deviation, which mean the same for eps, v and flow models. The
latent image stays, since masks of an inpainting go by it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .schedule import left_of_schedule
from .wrapper_keys import STARTING_NOISE

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)
EXCHANGES, ADDS, MOVES = range(3)  # turns of a Start
STARTS = "fovea_starts"  # in transformer_options: a tuple of Start
FULL_NOISE = 0.75  # of the schedule: some schedulers leave the first levels out, most where there are few steps


@dataclass(frozen=True)
class StartOfRun:
    """What is known before the first step, as ComfyUI hands it to samplers. latent, mask: None where there is none."""

    guider: Any
    sigmas: Tensor
    model_options: Mapping[str, Any]
    latent: Tensor | None
    mask: Tensor | None

    @property
    def sampling(self) -> Any:
        return self.guider.inner_model.model_sampling

    def inside(self, noise: Tensor) -> Tensor:
        """How much of every pixel is drawn anew, shaped like the noise."""
        return torch.ones_like(noise) if self.mask is None else self.mask.to(noise).expand_as(noise)


class Start(Protocol):
    """A change of the starting noise. Immutable: clones of a model share it."""

    @property
    def turn(self) -> int:
        """When it acts: first what exchanges noise, then what adds to it, last what goes by all that is there."""
        ...

    def changed(self, noise: Tensor, run: StartOfRun) -> Tensor:
        """Other noise of the same shape [batch, channels, ...], on the same device."""
        ...


def install(patcher: ModelPatcher, start: Start) -> None:
    """Add a change of the starting noise to a freshly cloned patcher; the same one once only."""
    if start in starts_of(patcher.model_options):
        return
    options = patcher.model_options.setdefault("transformer_options", {})
    options[STARTS] = (*starts_of(patcher.model_options), start)
    if not patcher.get_wrappers(WrappersMP.SAMPLER_SAMPLE, STARTING_NOISE):
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, STARTING_NOISE, _sampler_sample)


def starts_of(model_options: Mapping[str, Any]) -> tuple[Start, ...]:
    """What a model's nodes want to do to the starting noise, in their order."""
    return model_options.get("transformer_options", {}).get(STARTS, ())


def acting_starts(noise: Tensor, run: StartOfRun) -> tuple[Start, ...]:
    """Those that act in this run, in the order in which they do; where none may, the log says why.

    Raises ValueError for a model that starts from something else than noise.
    """
    starts = sorted(starts_of(run.model_options), key=lambda start: start.turn)
    why = reason_against(noise, run) if starts else ""
    if why:
        logger.warning("The starting noise is left as it is: %s", why)
    return () if why else tuple(starts)


def begun(noise: Tensor, run: StartOfRun, starts: Sequence[Start]) -> Tensor:
    """Noise as these want it; the same tensor where there are none."""
    for start in starts:
        noise = start.changed(noise, run)
    return noise


def reason_against(noise: Tensor, run: StartOfRun) -> str:
    """Why a run does not begin with noise that could tell places; "" if it does. Raises ValueError for one that sees
    no noise."""
    one, most = torch.ones(1), torch.as_tensor(float(run.sampling.sigma_max)).reshape(1)
    if float(run.sampling.noise_scaling(most, one, torch.zeros(1))) == 0:
        raise ValueError(
            f"{type(run.sampling).__name__} starts from a picture and never sees noise. Disconnect Region "
            "Start and the like from it."
        )
    if noise.ndim not in (4, 5):
        return "its latent has no height and width of its own (sound, video with sound, 3D)."
    left = left_of_schedule(run.sampling, float(run.sigmas[0]))
    if left < FULL_NOISE:
        return f"it begins at {1 - left:.2f} of the schedule (denoise below 1, or a second pass)."
    if not noise.any():
        return "no noise is added (add_noise is off)."
    if run.mask is None and run.latent is not None and not _constant(run.latent):
        return "it begins with a picture. Connect an empty latent, or mask what is to be drawn anew."
    return ""


def spatial_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over height and width of [batch, channels, ..., height, width], kept as axes of length 1."""
    return (values * weights).sum(dim=(-2, -1), keepdim=True) / weights.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-12)


def _constant(latent: Tensor) -> bool:
    """Whether every channel has one value everywhere, as empty latents have (0, or a model's own)."""
    flat = latent.flatten(2)
    return bool(((flat - flat[..., :1]).abs() < 1e-6).all())


def _sampler_sample(
    executor: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
    latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
) -> Any:  # fmt: skip
    """SAMPLER_SAMPLE: before noise and latent image are mixed. Samplers that try many noises ask for each by itself."""
    if not getattr(executor.class_obj, "starts_itself", False) and len(sigmas) > 1:
        run = StartOfRun(guider, sigmas, extra_args["model_options"], latent_image, denoise_mask)
        noise = begun(noise, run, acting_starts(noise, run))
    return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
