"""What a scorer is: something that tells how well pictures fit a prompt, differentiable in the pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor


class Scorer(ABC):
    """name: for people. size: the side in pixels of the squares that it looks at. unit: what its scores are called.
    patcher: its network, which the caller loads. overwrites: whether the network changes tensors in place that autograd
    keeps. letterbox: whether it looks at a whole picture in a black square, not at squares of it. whole: whether it
    looks at pictures as they are, of any shape; `size` is then that of squares around regions and what is salient.
    differentiable: whether its losses have gradients; without, pictures can be searched with it but not changed.
    reads_prompt: whether the prompt matters."""

    name: str
    size: int
    unit: str
    patcher: Any
    overwrites: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    reads_prompt: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    letterbox: bool = False

    @abstractmethod
    def target(self, prompt: str) -> Any:
        """What `losses` compares with. May load another network."""

    @abstractmethod
    def losses(self, squares: Tensor, target: Any) -> Tensor:
        """How far squares [n, 3, size, size] in 0..1 are from the target, [n]; differentiable. With `whole`, pictures
        [n, 3, height, width]."""

    @abstractmethod
    def scores(self, losses: Tensor) -> Tensor:
        """Losses as people know them, in `unit`: higher is better."""

    def truncated_tokens(self, prompt: str) -> int:
        """How many tokens of a prompt it does not read."""
        return 0


class EmbeddingScorer(Scorer):
    """Embeds pictures and texts in one space and compares directions, as CLIP does."""

    unit = "100 x cosine"

    @abstractmethod
    def image(self, squares: Tensor) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n, width], differentiable."""

    @abstractmethod
    def text(self, texts: Sequence[str]) -> Tensor:
        """-> [n, width], without gradient."""

    def target(self, prompt: str) -> Tensor:
        return self.text([prompt])[0]

    def losses(self, squares: Tensor, target: Tensor) -> Tensor:
        vectors = self.image(squares)
        return spherical(vectors, target.to(vectors))

    def scores(self, losses: Tensor) -> Tensor:
        return 100 * torch.cos((2 * losses).sqrt())  # back from half the squared angle


def spherical(a: Tensor, b: Tensor) -> Tensor:
    """Half the square of the angle between vectors [..., width]: DOODL's 2 arcsin(|a - b| / 2)^2 on unit vectors.

    Written with both the chord and the sum, so that its gradient is finite everywhere, for opposite vectors too.
    """
    a, b = torch.nn.functional.normalize(a, dim=-1), torch.nn.functional.normalize(b, dim=-1)
    return (2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))) ** 2 / 2
