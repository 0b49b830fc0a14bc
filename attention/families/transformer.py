"""What diffusion transformers have in common.

They put the image's tokens in row order behind those of text, or apart from them, and then what only some models have:
padding, tokens of reference pictures. Most name the running block in transformer_options; for others we do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..sites import BlockId, Forward, LayerTokens, Site, TextPlace


class Transformer:
    """What the families have in common. Subclasses tell where blocks are and what surrounds the image's tokens."""

    name = ""
    models = ""  # as people know them
    sections: Mapping[str, str] = {"double": "blocks"}  # as ComfyUI calls them -> attribute that holds the blocks
    # What layers are about, by how their names begin: "image", "text", "joint" (text, then image), "map" (a convolution
    # that makes tokens), "prompt" (text before that of other encoders joins it); "one for ..." where a vector is
    # taken for all tokens and could be one for each.
    layers: tuple[tuple[str, str], ...] = ()
    unnamed: str | None = None  # section of blocks that tell their number only
    # Whether a prompt is read as a whole once before a run: something of what is cut off a call is left in the rest.
    text_is_mixed = False
    # Whether reference pictures may have a time of their own, which stands behind those of the whole batch.
    time_of_references = False
    # Layers that make tokens of references too, by how their names begin, and the input that holds those: where it is
    # given, calls of these layers are not told apart.
    shared_layers: tuple[tuple[str, str], ...] = ()

    def blocks(self, network: Any) -> tuple[BlockId, ...]:
        """Every block, and for those with more than one attention over the image a layer for each."""
        return tuple(
            BlockId(section, number, layer)
            for section, attribute in self.sections.items()
            for number, block in enumerate(getattr(network, attribute))
            for layer in range(self.self_attentions(block))
        )

    def module(self, network: Any, block: BlockId) -> nn.Module:
        return getattr(network, self.sections[block.section])[block.number]

    def self_attentions(self, block: Any) -> int:
        """How many attention calls of a block compare image tokens with each other."""
        return 1

    def call(self, forward: Forward, section: str, number: int) -> int:
        """Which of a block's attention calls this one is."""
        return forward.count((section, number))

    def default_blocks(self, network: Any) -> frozenset[BlockId]:
        """The middle one of the first section, where a transformer knows what is where and not yet how it looks."""
        section, attribute = next(iter(self.sections.items()))
        return frozenset({BlockId(section, len(getattr(network, attribute)) // 2, 0)})

    def prepare(self, network: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(options)

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """The call's block and its image tokens; None outside of the blocks and where the numbers do not add up."""
        section, number = options.get("block_type", self.unnamed), options.get("block_index")
        if section is None or section not in self.sections or number is None:
            return None
        call = self.call(forward, section, number)
        axis = 2 if heads_first else 1
        queries, keys = q.shape[axis], k.shape[axis]
        kind = self.kind(forward.network, call)
        if kind is None or q.shape[0] != forward.batch:
            return None
        grid = self.grid(forward)
        if kind != "cross" and not self.fits(options, queries, keys, grid):
            return None
        patch, tokens = self.patch(forward.network)[-len(grid) :], queries if kind == "cross" else keys
        start = self.start(forward, options, tokens, grid)
        joint = self.joint_text(forward, options, tokens, start, grid)
        text_start, text = {"joint": joint, "cross": (0, keys), "self": (0, 0)}[kind]
        if start < 0 or text < 0 or queries < start + math.prod(grid):
            return None
        if kind == "joint" and text != options.get("img_slice", (text,))[0]:
            return None
        block = BlockId(section, number, call if kind == "self" else 0)
        extent = tuple(tokens * size for tokens, size in zip(grid, patch))
        return Site(block, kind, grid, extent, start, text, self.text_place(forward), text_start)

    def kind(self, network: Any, call: int) -> str | None:
        """Kind of a block's attention call, counted from 0; None for calls that are not about image or text tokens."""
        return "joint" if call == 0 else None

    def fits(self, options: Mapping[str, Any], queries: int, keys: int, grid: tuple[int, ...]) -> bool:
        """Whether so many tokens look at so many: all at all, or at those of reference pictures besides, whose keys a
        node has kept of an earlier evaluation (Flux KV Cache)."""
        return keys - queries in (0, sum(options.get("reference_image_num_tokens", ())))

    def patch(self, network: Any) -> tuple[int, ...]:
        """Size of a token in latent pixels, along every axis or along both of a picture."""
        size = network.patch_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def grid(self, forward: Forward) -> tuple[int, ...]:
        """The image's tokens: the latent is padded to whole patches."""
        size = forward.latent_size
        return tuple(-(-n // by) for n, by in zip(size, self.patch(forward.network)[-len(size) :]))

    def start(self, forward: Forward, options: Mapping[str, Any], tokens: int, grid: tuple[int, ...]) -> int:
        """Place of the image's first token among all of them."""
        return tokens - self.behind(forward, options, grid) - math.prod(grid)

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        """Tokens after the image's own."""
        return sum(options.get("reference_image_num_tokens", ()))

    def before(self, forward: Forward) -> int:
        """Tokens between those of text and the image's own."""
        return 0

    def joint_text(
        self, forward: Forward, options: Mapping[str, Any], tokens: int, start: int, grid: tuple[int, ...]
    ) -> tuple[int, int]:
        """(place of the first, number) of the text tokens among all, where the image's begin at `start`."""
        return 0, start - self.before(forward)

    def text_place(self, forward: Forward) -> TextPlace:
        """Where a prompt is among the text tokens of its blocks."""
        return TextPlace()

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        """By the layer's name, never by length; None where the numbers do not add up."""
        if any(re.match(begin, name) and _given(forward.inputs.get(given)) for begin, given in self.shared_layers):
            return None
        about = next((about for begin, about in self.layers if re.match(begin, name)), "")
        grid = self.grid(forward)
        extent = tuple(tokens * size for tokens, size in zip(grid, self.patch(forward.network)[-len(grid) :]))
        if about == "image" and shape[1:-1] == (*(1,) * (len(shape) - 2 - len(grid)), *grid):  # an axis for each
            return LayerTokens(grid=grid, extent=extent)
        if not about or (about != "map" and len(shape) != 3):
            return None
        if about in ("text", "prompt"):
            return LayerTokens(shape[1], self.text_place(forward) if about == "text" else TextPlace())
        if about == "map":
            (first, last), frame = self.frames_around(forward), math.prod(grid[1:])
            if shape[2:] != (first + grid[0] + last, *grid[1:]):
                return None
            return LayerTokens(before=first * frame, grid=grid, extent=extent, behind=last * frame, maps=True)
        shared = about.startswith("one for ")
        text, before, behind = self.around(forward, about.removeprefix("one for "), 0 if shared else shape[1], grid)
        if min(text, before, behind) < 0 or (shared and shape[1] != 1):
            return None
        if about == "one for text":
            return LayerTokens(text, self.text_place(forward), shared=True)
        return LayerTokens(text, self.text_place(forward), before, grid, extent, behind, shared=shared)

    def pictures(self, forward: Forward, rows: int) -> Sequence[int] | None:
        """Those of several times: of references, or else one for each frame, which follow each other."""
        times, left = divmod(rows, forward.batch)
        if left:
            return None
        if self.time_of_references:
            return [*range(forward.batch)] * times
        return [picture for picture in range(forward.batch) for _ in range(times)]

    def around(
        self, forward: Forward, about: str, tokens: int, grid: tuple[int, ...]
    ) -> tuple[int, int, int]:
        """Tokens of text, others between them and the image's own, and others behind those. tokens: how many a layer
        has in all, 0 where it gives one vector for all."""
        return 0, 0, tokens - math.prod(grid)

    def frames_around(self, forward: Forward) -> tuple[int, int]:
        """How many frames of tokens are embedded with the video, of reference pictures, before and behind it."""
        return 0, 0

    def checkpointed(self, network: Any) -> Iterable[nn.Module]:
        return ()

    def announcing(self, network: Any) -> Iterable[nn.Module]:
        return ()

    def announce(self, forward: Forward, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Nothing is announced."""


class TextBehind(Transformer):
    """Transformers whose image comes first, then reference pictures, then text."""

    def start(self, forward: Forward, options: Mapping[str, Any], tokens: int, grid: tuple[int, ...]) -> int:
        return 0

    def joint_text(
        self, forward: Forward, options: Mapping[str, Any], tokens: int, start: int, grid: tuple[int, ...]
    ) -> tuple[int, int]:
        first = math.prod(grid) + self.behind(forward, options, grid)
        return first, tokens - first


@dataclass(frozen=True)
class NamedBlock:
    """A block that does not name itself, or another node's replacement of it, that does as other transformers' blocks.
    """

    number: int
    function: Callable[..., dict[str, Any]] | None

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        # A copy: ComfyUI checkpoints replaced blocks, and on the way back each has to find its own name again.
        options = {**args["transformer_options"], "block_type": "double", "block_index": self.number}
        args = {**args, "transformer_options": options}
        return extra["original_block"](args) if self.function is None else self.function(args, extra)


def naming_blocks(count: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a call's options in which so many double blocks are replaced by ones that name themselves."""
    replaced = options.get("patches_replace", {})
    blocks = replaced.get("dit", {})
    keys = [("double_block", number) for number in range(count)]
    named = {key: NamedBlock(key[1], blocks.get(key)) for key in keys}
    return {**options, "patches_replace": {**replaced, "dit": {**blocks, **named}}}


def _given(references: Tensor | Sequence[Tensor] | None) -> bool:
    return references is not None and len(references) > 0


def tokens_of(latent: Tensor | None, patch: tuple[int, ...]) -> int:
    """How many tokens a latent [batch, channels, ...] becomes; 0 for none."""
    return 0 if latent is None else math.prod(-(-n // by) for n, by in zip(latent.shape[-len(patch) :], patch))
