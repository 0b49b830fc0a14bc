"""ComfyUI's own samplers on many candidates at once, from one step of the schedule to another.

What becomes of a candidate is what a sampler makes of its noise alone: noise that the sampler draws comes from a seed
of the candidate's own, whatever else is in the batch, and goes on after a pause where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.k_diffusion import sampling
from torch import Tensor

from .candidate_legs import Candidates
from .candidates import sampling_seed
from .decoding import Decoder
from .guided_model import GuidedModel
from .memoryless import BROWNIAN_GPU, DRAWN_NOISE, GENERATOR
from .search import Evaluation
from .trial import Trial

MARGIN = 1.5  # as ComfyUI has it where it puts prompts into one batch
DrawNoise = Callable[[Tensor, Tensor], Tensor]  # (sigma, sigma of the next step) -> unit noise of a batch


@dataclass(eq=False)
class CandidateSampler:
    """name: of a sampler, as KSampler has it. seed: of the run. on_steps: told how many candidates did a step.

    times_drawn: how often the sampler has drawn noise when it comes to a step; the same for all candidates.
    """

    name: str
    model: GuidedModel
    seed: int
    on_steps: Callable[[int], None]
    times_drawn: dict[int, int] = field(default_factory=lambda: {0: 0})

    def __post_init__(self) -> None:
        self.sampler = comfy.samplers.sampler_object(self.name)

    def advance(self, candidates: Candidates, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Latents [n, places, ...] at step `end`, and the clean ones that the last step before it predicted. From the
        candidates' noise if they start at step 0, else from where they are."""
        model, (count, places) = self.model, candidates.numbers.shape
        if start == 0:
            model.set_back()

        def together(values: Tensor) -> Tensor:
            return values.to(model.noise.device, torch.float32).flatten(0, 1)

        def for_all(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat(count, *[1] * (value.ndim - 1))

        inner = comfy.samplers.KSamplerX0Inpaint(model.inner.inner_model, model.sigmas)
        begun, inner.latent_image = together(candidates.begun), for_all(model.latent)
        inner.noise = self._inpainting_noise(candidates) if self.sampler.inpaint_options.get("random") else begun
        x = model.scaled(begun, inner.latent_image) if start == 0 else together(candidates.x)
        clean = [x]

        def on_step(step: Mapping[str, Any]) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            clean[0] = step["denoised"]
            self.on_steps(count)

        noise = self._step_noise(candidates, start)
        x = self.sampler.sampler_function(
            inner, x, model.sigmas[start : end + 1], extra_args={
                **model.extra_args, "denoise_mask": for_all(model.mask),
                "seed": sampling_seed(self.seed, int(candidates.numbers[0, 0])),
            }, callback=on_step, disable=True, **self.sampler.extra_options,
            **({} if noise is None else {"noise_sampler": noise}),
        )  # fmt: skip
        if noise is not None:
            self.times_drawn[end] = noise.times
        return x.unflatten(0, (count, places)), clean[0].unflatten(0, (count, places))

    def _step_noise(self, candidates: Candidates, start: int) -> StepNoise | None:
        """What the sampler draws its noise from; None where it draws none, or in a way that is not known."""
        kind, like = DRAWN_NOISE.get(self.name), self.model.noise
        if kind is None:
            return None
        sigmas = self.model.sigmas
        draw: dict[int, DrawNoise] = {}
        for number in candidates.numbers.unique().tolist():
            seed = sampling_seed(self.seed, number)
            if kind == GENERATOR:
                draw[number] = sampling.default_noise_sampler(like, seed=seed)
            else:
                span = (sigmas[sigmas > 0].min(), sigmas.max())
                draw[number] = sampling.BrownianTreeNoiseSampler(like, *span, seed=seed, cpu=kind != BROWNIAN_GPU)
        noise = StepNoise(candidates.numbers, draw)
        if kind == GENERATOR:
            for _ in range(self.times_drawn[start]):
                noise(sigmas[0], sigmas[0])
        return noise

    def _inpainting_noise(self, candidates: Candidates) -> Tensor:
        """What DDIM lays over the part that an inpainting keeps: ComfyUI draws it from the next seed."""
        like = self.model.noise

        def draw(number: int) -> Tensor:
            seeded = torch.Generator().manual_seed(sampling_seed(self.seed, number) + 1)
            return torch.randn(like.shape, generator=seeded).to(like)

        return in_place(candidates.numbers, {number: draw(number) for number in candidates.numbers.unique().tolist()})


@dataclass(frozen=True, eq=False)
class CandidateWork:
    """What a search of candidates does with a model. preview: decodes what is not finished yet."""

    sampler: CandidateSampler
    trial: Trial
    preview: Decoder

    def advance(self, candidates: Candidates, start: int, end: int) -> tuple[Tensor, Tensor]:
        """As `CandidateSampler.advance`."""
        return self.sampler.advance(candidates, start, end)

    def estimate(self, clean: Tensor) -> Tensor:
        """Losses [n, places] of latents [n, places, ...]."""
        return torch.stack([self.trial.judge(latents, self.preview)[0] for latents in clean])

    def finish(self, latents: Tensor) -> Evaluation:
        """What a finished candidate [places, ...] is worth."""
        losses, pictures = self.trial.judge(latents, self.trial.decode)
        return Evaluation(losses, None, latents, pictures)


def fitting_batch(patcher: Any, shape: Sequence[int], batch: int, device: torch.device) -> int:
    """How many candidates of latents of this shape, at most, ComfyUI's own estimate of memory allows at once."""
    free, model = patcher.get_free_memory(device), patcher.model  # with what streamed weights may give up
    while batch > 1 and model.memory_required([batch * shape[0], *shape[1:]]) * MARGIN > free:
        batch //= 2
    return batch


@dataclass(eq=False)
class StepNoise:
    """Noise for a batch of candidates, each from a source of its own. numbers [n, places]: whose. times: how often it
    was drawn."""

    numbers: Tensor
    draw: Mapping[int, DrawNoise]
    times: int = 0

    def __call__(self, sigma: Tensor, after: Tensor) -> Tensor:
        self.times += 1
        return in_place(self.numbers, {number: draw(sigma, after) for number, draw in self.draw.items()})


def in_place(numbers: Tensor, tensors: Mapping[int, Tensor]) -> Tensor:
    """A batch [n * places, ...]: at every place what the candidate there [places, ...] has at that place."""
    return torch.stack([tensors[number][place] for row in numbers.tolist() for place, number in enumerate(row)])
