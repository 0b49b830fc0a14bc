"""How far pictures are from a text: DOODL's spherical distance, on the whole and on the salient parts (SGOOL)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import crops
from ..crops import View
from ..gradients.saved_tensors import clone_saved_tensors

SALIENT_VIEWS = ("crops", "cutouts")


class Embedder(Protocol):
    """Embeds pictures and texts in one space. size: the side of the squares that it looks at, in pixels."""

    size: int

    def image(self, squares: Tensor) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n, width], differentiable."""
        ...

    def text(self, texts: Sequence[str]) -> Tensor:
        """-> [n, width]."""
        ...


class Judge(Protocol):
    """Rates how well a picture fits a text, in one go. unit: what its ratings are called; weight: what they are
    multiplied with to be a loss beside others."""

    size: int
    unit: str
    weight: float

    def rate(self, squares: Tensor, text: str) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n], higher is better, differentiable."""
        ...


Scorer = Embedder | Judge
COSINE = "100 x cosine"


def is_judge(scorer: Any) -> bool:
    """Whether a scorer is a Judge, told by its `rate`; if not, it is an Embedder."""
    return hasattr(scorer, "rate")


def encode_target(scorer: Any, text: str) -> Any:
    """What `text_losses` takes for a text."""
    return text if is_judge(scorer) else scorer.text([text])[0]


def text_losses(scorer: Any, squares: Tensor, wanted: Any) -> Tensor:
    """How far squares are from a text, [n]; differentiable."""
    if is_judge(scorer):
        return -scorer.weight * scorer.rate(squares, wanted)
    network = scorer.patcher.model if getattr(scorer, "overwrites", False) else None  # what autograd keeps
    with contextlib.nullcontext() if network is None else clone_saved_tensors([network])():
        vectors = scorer.image(squares)
    return spherical(vectors, wanted.to(vectors))


def whole_scores(scorer: Any, found: Tensor) -> tuple[Tensor, str]:
    """`text_losses` of whole pictures as people know them, higher is better, and what they are called."""
    if is_judge(scorer):
        return -found / scorer.weight, scorer.unit
    return 100 * torch.cos((2 * found).sqrt()), COSINE  # back from half the squared angle


def spherical(a: Tensor, b: Tensor) -> Tensor:
    """Half the square of the angle between vectors [..., width]: DOODL's 2 arcsin(|a - b| / 2)^2 on unit vectors.

    Written with both the chord and the sum, so that its gradient is finite everywhere, for opposite vectors too.
    """
    a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
    return (2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))) ** 2 / 2


@dataclass(frozen=True)
class SalientLoss:
    """(1 - weight) * whole + weight * salient parts (SGOOL, arXiv 2410.10257); weight 0 is DOODL.

    cutouts: 0 looks at the whole picture; n at n random squares, of which the best counts, as DOODL's code has it.
    views: "crops" around connected parts of the saliency map above `quantile`, or "cutouts" drawn from its density.
    count: of drawn cutouts. least: the smallest side of a square, as a part of the picture's shorter side.
    """

    weight: float = 0.5
    cutouts: int = 0
    views: str = "crops"
    quantile: float = 0.85
    count: int = 4
    least: float = 0.25

    def __call__(
        self, scorer: Scorer, wanted: Any, pictures: Tensor, saliency: Tensor | None,
        generators: Sequence[torch.Generator],
    ) -> Tensor:  # fmt: skip
        """Losses [n] of pictures [n, 3, height, width] for what is `encode_target` the scorer for the text.

        saliency: [n, height, width], a constant; without any, or where it is zero, the whole picture is all there is.
        generators: one per picture, so that a picture's squares do not depend on its neighbors.
        """
        losses = []
        for i, generator in enumerate(generators):
            everywhere = self._everywhere(pictures[i], generator)
            salient = [] if saliency is None or self.weight == 0 else self._salient(saliency[i], generator)
            squares = crops.look(pictures[i], [*everywhere, *salient], scorer.size)
            found = text_losses(scorer, squares, wanted)
            loss = self._of_everywhere(found[: len(everywhere)], everywhere)
            if salient:
                shares = found.new_tensor([view.weight for view in salient])
                loss = (1 - self.weight) * loss + self.weight * (shares * found[len(everywhere) :]).sum()
            losses.append(loss)
        return torch.stack(losses)

    def _everywhere(self, picture: Tensor, generator: torch.Generator) -> list[View]:
        height, width = picture.shape[-2:]
        if not self.cutouts:
            return crops.whole(height, width)
        return crops.cutouts(height, width, self.cutouts, self._least(height, width), generator)

    def _of_everywhere(self, found: Tensor, seen: list[View]) -> Tensor:
        if self.cutouts:
            return found.min()
        return (found * found.new_tensor([view.weight for view in seen])).sum()

    def _salient(self, saliency: Tensor, generator: torch.Generator) -> list[View]:
        least = self._least(*saliency.shape)
        if self.views == "cutouts":
            return crops.salient_cutouts(saliency, self.count, least, generator)
        return crops.salient_parts(saliency, self.quantile, least, self.count)

    def _least(self, height: int, width: int) -> int:
        return max(1, round(self.least * min(height, width)))


Saliency = Callable[[Tensor], Tensor]  # pictures [n, 3, height, width] in 0..1 -> maps [n, height, width], >= 0
