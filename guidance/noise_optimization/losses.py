"""How far pictures are from a prompt, on the whole and on the salient parts (DOODL, SGOOL)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from .. import crops
from ..crops import View
from ..gradients.saved_tensors import clone_saved_tensors

SALIENT_VIEWS = ("crops", "cutouts")


class Scorer(Protocol):
    """What is needed of a scorer (models/scorers/scorer.py has the classes). size: the side of the squares that it
    looks at, in pixels. patcher: its network. overwrites: whether that changes what autograd keeps.
    letterbox: whether it looks at a whole picture in a black square, not at squares of it; whole: at a picture as it
    is. differentiable: whether its losses have gradients."""

    name: str
    size: int
    patcher: Any
    overwrites: ClassVar[bool]
    differentiable: ClassVar[bool]
    whole: ClassVar[bool]
    letterbox: bool

    def target(self, prompt: str) -> Any:
        """What `losses` compares with."""
        ...

    def losses(self, squares: Tensor, target: Any) -> Tensor:
        """How far squares [n, 3, size, size] in 0..1 are from the target, [n]; differentiable."""
        ...

    def scores(self, losses: Tensor) -> Tensor:
        """Losses as people know them: higher is better."""
        ...


def square_losses(scorer: Scorer, squares: Tensor, target: Any) -> Tensor:
    """A scorer's losses, whatever its network does to its own tensors."""
    if not scorer.overwrites:
        return scorer.losses(squares, target)
    with clone_saved_tensors([scorer.patcher.model])():
        return scorer.losses(squares, target)


def in_one(scorer: Scorer, picture: Tensor) -> Tensor | None:
    """A picture [3, height, width] as a scorer wants it that looks at all of it at once: as it is, or in a black
    square. None for one that looks at squares of it."""
    if scorer.whole:
        return picture[None]
    return crops.letterbox(picture, scorer.size) if scorer.letterbox else None


def picture_score(scorer: Scorer, picture: Tensor, target: Any) -> Tensor:
    """The score of a whole picture [3, height, width], a scalar: the mean over the squares that cover it, or where the
    scorer has it so, that of the picture at once."""
    seen = in_one(scorer, picture)
    if seen is not None:
        return scorer.scores(square_losses(scorer, seen, target))[0]
    views = crops.whole(*picture.shape[-2:])
    scores = scorer.scores(square_losses(scorer, crops.look(picture, views, scorer.size), target))
    return (scores.new_tensor([view.weight for view in views]) * scores).sum()


@dataclass(frozen=True)
class SalientLoss:
    """(1 - weight) * whole + weight * salient parts (SGOOL, arXiv 2410.10257); weight 0 is DOODL.

    cutouts: 0 looks at the whole picture; n at n random squares, of which the best counts, as DOODL's code has it.
    views: "crops" around connected parts of the saliency map above `quantile`, or "cutouts" drawn from its density.
    count: of drawn cutouts. least: the smallest side of a salient square, as a part of the picture's shorter side; the
    others' is the scorer's own size where the picture has it, as DOODL has 224. resize: how squares are brought to the
    scorer's size; DOODL's is average pooling.
    """

    weight: float = 0.5
    cutouts: int = 0
    views: str = "crops"
    quantile: float = 0.85
    count: int = 4
    least: float = 0.25
    resize: str = crops.RESIZE[0]

    def __call__(
        self, scorer: Scorer, target: Any, pictures: Tensor, saliency: Tensor | None,
        generators: Sequence[torch.Generator],
    ) -> Tensor:  # fmt: skip
        """Losses [n] of pictures [n, 3, height, width] from the scorer's target.

        saliency: [n, height, width], a constant; without any, or where it is zero, the whole picture is all there is.
        generators: one per picture, so that a picture's squares do not depend on its neighbors.
        """
        losses = []
        for i, generator in enumerate(generators):
            everywhere = self._everywhere(pictures[i], scorer.size, generator)
            salient = [] if saliency is None or self.weight == 0 else self._salient(saliency[i], generator)
            seen = None if self.cutouts else in_one(scorer, pictures[i])
            if seen is not None:
                parts, everywhere = [seen], [View(0, 0, 0)]
                parts += [crops.look(pictures[i], salient, scorer.size, self.resize)] if salient else []
            else:
                parts = [crops.look(pictures[i], [*everywhere, *salient], scorer.size, self.resize)]
            square = torch.cat([square_losses(scorer, part, target) for part in parts])
            loss = self._of_everywhere(square[: len(everywhere)], everywhere)
            if salient:
                shares = square.new_tensor([view.weight for view in salient])
                loss = (1 - self.weight) * loss + self.weight * (shares * square[len(everywhere) :]).sum()
            losses.append(loss)
        return torch.stack(losses)

    def _everywhere(self, picture: Tensor, size: int, generator: torch.Generator) -> list[View]:
        height, width = picture.shape[-2:]
        if not self.cutouts:
            return crops.whole(height, width)
        return crops.cutouts(height, width, self.cutouts, min(size, height, width), generator)

    def _of_everywhere(self, losses: Tensor, seen: list[View]) -> Tensor:
        if self.cutouts:
            return losses.min()
        return (losses * losses.new_tensor([view.weight for view in seen])).sum()

    def _salient(self, saliency: Tensor, generator: torch.Generator) -> list[View]:
        least = self._least(*saliency.shape)
        if self.views == "cutouts":
            return crops.salient_cutouts(saliency, self.count, least, generator)
        return crops.salient_parts(saliency, self.quantile, least, self.count)

    def _least(self, height: int, width: int) -> int:
        return max(1, round(self.least * min(height, width)))


Saliency = Callable[[Tensor], Tensor]  # pictures [n, 3, height, width] in 0..1 -> maps [n, height, width], >= 0
