"""The guidance node on small models, and one guided step computed from the formulas with plain calls of the model."""

from __future__ import annotations

import math
from typing import Any

import tiny_models as tiny
import torch
from reference import sag as reference
from torch import Tensor

from fovea.attention.tensor_layout import split_heads
from fovea.nodes.sag import FoveaSelfAttentionGuidance

DEFAULTS = {
    "scale": 0.75, "blur_sigma": 2.0, "threshold": 1.0, "mask_mode": "threshold", "guided_prompt": "auto",
    "blocks": "auto",
    "start_percent": 0.0, "end_percent": 1.0, "every_n_steps": 1, "rescale": 0.0, "blur_kernel": "auto",
}  # fmt: skip
CLOSE = {"rtol": 1e-4, "atol": 1e-2}  # latents have a spread of about 100 here


def guided(model: Any, **changes: Any) -> Any:
    return FoveaSelfAttentionGuidance.execute(model, **{**DEFAULTS, **changes}).result[0]


def chunks(calls: list[dict]) -> list[list[int]]:
    return [sorted(call["chunks"]) for call in calls]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


class Denoiser:
    """One guided denoising step, computed from the formulas with plain calls of the model: no hook, no sampler."""

    def __init__(self, model: Any, cfg: float = 5.0, branch: str = "uncond", flow: bool = False) -> None:
        self.model, self.cfg, self.branch, self.flow = model, cfg, branch, flow
        self.prompts = {"cond": tiny.prompt(1), "uncond": tiny.prompt(2)}
        self.options: dict[str, Any] = {}  # transformer_options of other patches of the model

    def x0(self, name: str, x: Tensor, sigma: Tensor) -> Tensor:
        text, extra = self.prompts[name][0]
        about = {"noise": x, "device": x.device, "height": 8 * x.shape[2], "width": 8 * x.shape[3], **extra}
        conds = self.model.model.extra_conds(cross_attn=text, prompt_type=name, **about)
        conds = {key: cond.process_cond(batch_size=x.shape[0], area=None).cond for key, cond in conds.items()}
        options = {**self.options, "cond_or_uncond": [0], "uuids": [None], "sigmas": sigma}
        return self.model.model.apply_model(x, sigma, transformer_options=options, **conds)

    def mask(self, call: dict, size: tuple[int, int], grid: tuple[int, int], threshold: float) -> Tensor:
        q, k = (split_heads(call[name], 4, False)[0] for name in "qk")
        attended = reference.saliency(q, k)
        assert (attended / attended.mean() - threshold).abs().min() > 1e-4
        return reference.pixel_mask(attended, grid, size, threshold)

    def __call__(
        self, x: Tensor, sigma: float, grid: tuple[int, int], scale: float = 0.75, blur: float = 2.0,
        threshold: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Guided x0 of one sample [1, 4, height, width]."""
        sigmas = torch.full((1,), sigma)
        with torch.inference_mode(), tiny.watching(self.model) as calls:
            x0 = {"cond": self.x0("cond", x, sigmas)}
            if self.cfg != 1:
                x0["uncond"] = self.x0("uncond", x, sigmas)
            cfg = x0["uncond"] + self.cfg * (x0["cond"] - x0["uncond"]) if self.cfg != 1 else x0["cond"]
            size = (x.shape[2], x.shape[3])
            mask = self.mask(calls[list(x0).index(self.branch)], size, grid, threshold)
            radius = [min(math.ceil(3 * blur), n - 1) for n in size]
            branch = x0[self.branch]
            degraded = mask * reference.gaussian_blur(branch[0], blur, *radius) + (1 - mask) * branch[0].double()

            def denoise(degraded: Tensor) -> Tensor:
                return self.x0(self.branch, degraded.float(), sigmas)

            return reference.guide(x, cfg, branch, degraded.unsqueeze(0), denoise, sigma, scale, self.flow)


def one_step(model: Any, start: Tensor, cfg: float = 5.0, **extra: Any) -> tuple[Tensor, Tensor, float]:
    """One Euler step to zero noise: its result is the guided x0. Returns x, that x0 and sigma."""
    seen: dict[str, Any] = {}

    def keep(args: dict[str, Any]) -> Tensor:
        seen.update(x=args["input"].clone(), x0=args["denoised"].clone(), sigma=float(args["sigma"][0]))
        return args["denoised"]

    observed = model.clone()
    observed.set_model_sampler_post_cfg_function(keep)
    tiny.sample(observed, start, cfg, steps=1, **extra)
    return seen["x"], seen["x0"], seen["sigma"]
