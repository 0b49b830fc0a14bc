"""One adapter per model family: what an attention call is (block, self / cross, grid), never guessed from lengths.

A family that is not here is unsupported: `family_of` returns None and techniques say so and leave the model alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ..compiled import original
from ..sites import BlockId, Forward, LayerTokens, Site, TextPlace
from .image import IMAGE
from .transformer import Transformer
from .unet import UNetFamily
from .video import VIDEO

TRANSFORMERS: Mapping[type, Transformer] = {**IMAGE, **VIDEO}
RUNS = ("forward", "_forward", "forward_orig")  # methods by which a network runs its blocks


class Family(Protocol):
    """What techniques need to know about a kind of network."""

    name: str

    def blocks(self, network: nn.Module) -> tuple[BlockId, ...]:
        """Blocks whose image self-attention can be read, in order of execution."""
        ...

    def module(self, network: nn.Module, block: BlockId) -> nn.Module:
        """The part of a network that a block is, with all its layers."""
        ...

    def default_blocks(self, network: nn.Module) -> frozenset[BlockId]:
        """Blocks that "auto" stands for."""
        ...

    def prepare(self, network: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a call's transformer_options with what this family needs to announce its attention calls."""
        ...

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """Where an attention call happens; asked exactly once for every call of the forward pass, in order.

        None if it is no call with the image's own tokens in their grid (merged or tiled tokens, a side network's).
        """
        ...

    text_is_mixed: bool  # whether a prompt is read as a whole once before a run, see Transformer

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        """What the output of the module `name`, of this shape, is about; None where it has no token axis or one that
        is not known."""
        ...

    def pictures(self, forward: Forward, rows: int) -> Sequence[int] | None:
        """Which picture of the batch each of so many rows of a layer's output is about, None where it is not known."""
        ...

    def text_place(self, forward: Forward) -> TextPlace:
        """Where a prompt is among the text tokens of its blocks."""
        ...

    def checkpointed(self, network: nn.Module) -> Iterable[nn.Module]:
        """Modules that ComfyUI may compute again on the way back of gradients, unless they are told not to."""
        ...

    def announcing(self, network: nn.Module) -> Iterable[nn.Module]:
        """Modules whose inputs tell what `layer_tokens` has to know."""
        ...

    def announce(
        self, forward: Forward, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Note what one of them is given."""
        ...


UNETS = "SD1.x, SD2.x, SDXL and ShapesWorld"
MODELS = "; ".join(dict.fromkeys(family.models for family in TRANSFORMERS.values()))  # transformers, for tooltips


def family_of(network: object) -> Family | None:
    """The adapter for a diffusion network (`model.diffusion_model`, compiled or not), None if we have none for it."""
    network = original(network)
    if isinstance(network, UNetModel):
        family = UNetFamily()
        return family if family.has_blocks(network) else None
    return next((TRANSFORMERS[kind] for kind in _runs_like(type(network)) if kind in TRANSFORMERS), None)


def _runs_like(kind: type) -> Iterator[type]:
    """A class and those that it inherits from, as far as it runs its blocks as they do."""
    for each in kind.__mro__:
        yield each
        if any(method in vars(each) for method in RUNS):
            return
