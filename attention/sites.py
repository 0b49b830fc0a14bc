"""Where an attention call happens: block, kind, token grid; and one call of the network as a model family sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CALL_STATE = "fovea_call"  # where a model call keeps its state in transformer_options; its `forward` is the family's


class BlockId(NamedTuple):
    """Place of a transformer layer in a model, as ComfyUI counts it: ("input", 7, 0) is layer 0 of input block 7."""

    section: str
    number: int
    layer: int


@dataclass(frozen=True)
class TextPlace:
    """Where a prompt's tokens are among all text tokens of a call.

    start: tokens of another encoder come first, so many. repeats: a prompt is repeated to the length of a longer one of
    the batch, as ComfyUI does for some families; else what follows it is padding. at_end: padding comes before it.
    """

    start: int = 0
    repeats: bool = False
    at_end: bool = False

    def of(self, count: int, length: int) -> tuple[int, int]:
        """(first token, tokens that belong to it) of a prompt of so many tokens among `count`; with those that other
        nodes have put behind it."""
        start = max(0, count - length) if self.at_end and length else self.start
        return start, length if self.repeats else count - start


@dataclass(frozen=True)
class Site:
    """Where an attention call happens: block, "self" / "cross" / "joint", and where the image's tokens are in it.

    grid: tokens as (height, width), for video (frames, height, width). extent: latent pixels that the grid spans, more
    than the latent has where the network pads it to whole patches (the padding lies at the far ends). start: place of
    the image's first token among the queries, and among the keys too unless they are text only ("cross").
    text_tokens: keys that are text, from text_start on. text: where the prompt is in them.
    """

    block: BlockId
    kind: str
    grid: tuple[int, ...]
    extent: tuple[int, ...]
    start: int = 0
    text_tokens: int = 0
    text: TextPlace = TextPlace()
    text_start: int = 0

    @property
    def image(self) -> slice:
        """The image's own tokens among the queries."""
        return slice(self.start, self.start + math.prod(self.grid))

    @property
    def words(self) -> slice:
        """The text tokens among the keys."""
        return slice(self.text_start, self.text_start + self.text_tokens)


@dataclass(frozen=True)
class LayerTokens:
    """What a layer's values are about, along their token axis: text, then the image in its grid, others around it.

    text_tokens, text: as in Site. before, behind: tokens between the text's and the image's, and after those (reference
    pictures, padding). grid, extent: see Site; () where no token is the image's. maps: values are [batch, channels,
    *grid], else [batch, tokens, channels]. shared: the layer gives one vector for all of these tokens, and what takes
    it would take one for each as well.
    """

    text_tokens: int = 0
    text: TextPlace = TextPlace()
    before: int = 0
    grid: tuple[int, ...] = ()
    extent: tuple[int, ...] = ()
    behind: int = 0
    maps: bool = False
    shared: bool = False

    @property
    def image(self) -> int:
        """How many tokens are the image's."""
        return math.prod(self.grid) if self.grid else 0


@dataclass(eq=False)
class Forward:
    """One call of the network, as a model family sees it. Made anew for every call; what is announced is kept here.

    latent_size: axes after the channels. inputs: the call's further inputs under ComfyUI's names (ref_latents, ...).
    patches: what other nodes have put into the network, by ComfyUI's names for where.
    """

    network: Any
    batch: int
    latent_size: tuple[int, ...]
    inputs: Mapping[str, Any]
    patches: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    kind: str | None = None  # of the next attention call, where the family can have it announced
    place: tuple[str, int] | None = None  # block of the last attention call
    number: int = 0  # of the last attention call within its block
    around: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shapes and numbers of the running block, by name

    def take_kind(self) -> str | None:
        """The kind of the call announced last; an announcement serves one call."""
        kind, self.kind = self.kind, None
        return kind

    def count(self, place: tuple[str, int]) -> int:
        """How many attention calls of this block came before this one, when every call is counted once."""
        self.number = self.number + 1 if place == self.place else 0
        self.place = place
        return self.number
