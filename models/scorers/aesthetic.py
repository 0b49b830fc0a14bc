"""LAION's aesthetic predictors: small heads that rate CLIP's vector of a picture, whatever the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import comfy.ops
import torch
from torch import Tensor, nn

from .comfy_clip import ClipPairScorer
from .open_clip import OpenClipScorer, UnknownScorer
from .scorer import Scorer

# Where the linear layers are among the others, dropout and, in the second, ReLU.
LAYOUTS: dict[tuple[int, ...], bool] = {(0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True}
LAYER = re.compile(r"layers\.(\d+)\.(?:weight|bias)")
# By the width of their vectors, the CLIPs that LAION's heads were trained on.
OPENAI = {512: "OpenAI's ViT-B/32 or B/16, as its name says", 768: "OpenAI's ViT-L/14"}
WEIGHT = 0.1  # of a point of ten in the loss: ratings of 1 to 10 are then on the scale of CLIP's losses


@dataclass(frozen=True, eq=False)
class AestheticScorer(Scorer):
    """A CLIP, whose size and patcher it has, with a head on the direction of its vector. The head follows the vectors
    to their device."""

    name: str
    size: int
    patcher: Any = field(repr=False)
    clip: OpenClipScorer | ClipPairScorer = field(repr=False)
    head: nn.Module = field(repr=False)
    unit: str = "aesthetic score"
    reads_prompt: ClassVar[bool] = False

    @property
    def overwrites(self) -> bool:  # type: ignore[override]
        return self.clip.overwrites

    def target(self, prompt: str) -> None:
        return None

    def losses(self, squares: Tensor, target: None) -> Tensor:
        vectors = nn.functional.normalize(self.clip.image(squares).float(), dim=-1)
        with torch.inference_mode(False):  # what is moved there has no gradient afterwards
            head = self.head.to(vectors.device)
        return -WEIGHT * head(vectors)[:, 0]

    def scores(self, losses: Tensor) -> Tensor:
        return -losses / WEIGHT


def is_head(state: Mapping[str, Tensor]) -> bool:
    """Whether a file is such a head: V1's one linear layer, or the layers of the improved predictor."""
    return set(state) == {"weight", "bias"} or (bool(state) and all(LAYER.fullmatch(key) for key in state))


def read_head(state: Mapping[str, Tensor], file: str) -> nn.Sequential:
    """The network [n, width] -> [n, 1] in float32, without dropout. Raises UnknownScorer."""
    places = tuple(sorted({int(found[1]) for found in map(LAYER.fullmatch, state) if found}))
    if places and places not in LAYOUTS:
        raise UnknownScorer(
            f"{file} has linear layers at {places}. Known are the heads of LAION's predictors: sa_0_4_*_linear.pth, "
            "*linearMSE.pth and *reluMSE.pth."
        )
    layers: list[nn.Module] = []
    try:
        for prefix in [f"layers.{place}." for place in places] or [""]:
            outer, inner = state[f"{prefix}weight"].shape
            linear = comfy.ops.disable_weight_init.Linear(inner, outer)
            linear.load_state_dict({name: state[prefix + name].float() for name in ("weight", "bias")})
            layers += [nn.ReLU(), linear] if layers and LAYOUTS[places] else [linear]
        head = nn.Sequential(*layers).eval().requires_grad_(False)
        rated = head(torch.zeros(1, width_of(head)))
    except (KeyError, ValueError, RuntimeError) as why:
        raise UnknownScorer(
            f"{file} is an incomplete head of an aesthetic predictor ({why}). Download it again."
        ) from None
    if rated.shape[-1] != 1:
        raise UnknownScorer(f"{file} gives {rated.shape[-1]} numbers of a picture, not one rating.")
    return head


def width_of(head: nn.Sequential) -> int:
    """Of the vectors that a head rates."""
    return int(next(head.parameters()).shape[1])


def with_clip(state: Mapping[str, Tensor], file: str, clip: Scorer | None) -> AestheticScorer:
    """A head's scorer. clip: the scorer of the CLIP that it was trained on. Raises UnknownScorer."""
    head = read_head(state, file)
    width = width_of(head)
    wanted, openai = OPENAI.get(width, "its CLIP"), width in OPENAI
    if not isinstance(clip, OpenClipScorer if openai else (OpenClipScorer, ClipPairScorer)):
        raise UnknownScorer(
            f"{file} is the head of an aesthetic predictor and needs {wanted}: load that with another Load Scorer and "
            "connect it to input clip_scorer."
        )
    if clip.width != width:
        raise UnknownScorer(f"{file} rates vectors of {width}, {clip.name} gives {clip.width}: connect {wanted}.")
    if openai and isinstance(clip, OpenClipScorer) and not clip.quick:
        raise UnknownScorer(
            f"{file} was trained on OpenAI's weights, {clip.name} is another training: its ratings would mean nothing. "
            f"Connect {wanted}; if it is that, set activation to quick gelu there."
        )
    return AestheticScorer(f"{file} on {clip.name}", clip.size, clip.patcher, clip, head)
