"""One adapter per model family: what an attention call is (block, self / cross, grid), never guessed from lengths.

A family that is not here is unsupported: `family_of` returns None and techniques say so and leave the model alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import comfy.ldm.modules.attention as host_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from .run import BlockId, Site

CALL_STATE = "fovea_call"  # where a model call keeps its state in transformer_options; a family may set its `kind`


class Family(Protocol):
    """What techniques need to know about a kind of network."""

    name: str

    def blocks(self, network: nn.Module) -> tuple[BlockId, ...]:
        """Blocks whose image self-attention can be read, in order of execution."""
        ...

    def default_blocks(self, network: nn.Module) -> frozenset[BlockId]:
        """Blocks that "auto" stands for."""
        ...

    def prepare(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a call's transformer_options with what this family needs to announce its attention calls."""
        ...

    def site(
        self, kind: str | None, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """Where a call happens; kind is what was announced, if anything.

        None if it is no call of the image's own tokens in their grid (merged, tiled, tokens of other pictures added).
        """
        ...


Patched = tuple[Tensor, Tensor, Tensor]


def _announce_self(n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any]) -> Patched:
    extra_options[CALL_STATE].kind = "self"
    return n, context, value


def _announce_cross(n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any]) -> Patched:
    extra_options[CALL_STATE].kind = "cross"
    return n, context, value


class UNetFamily:
    """SD1.x, SD2.x, SDXL and every other UNet built from the host's UNetModel with image transformers."""

    name = "UNet"

    def blocks(self, network: nn.Module) -> tuple[BlockId, ...]:
        """Every image transformer layer, in the order input, middle, output; ambiguous and video blocks left out."""
        found = []
        for section, modules in self._sections(network):
            for number, module in enumerate(modules):
                # A block may hold several transformers that share its name; only a single one can be told apart.
                spatial = [m for m in module if isinstance(m, host_attention.SpatialTransformer)]
                if len(spatial) != 1 or isinstance(spatial[0], host_attention.SpatialVideoTransformer):
                    continue
                for layer, block in enumerate(spatial[0].transformer_blocks):
                    if not block.disable_self_attn:
                        found.append(BlockId(section, number, layer))
        return tuple(found)

    def default_blocks(self, network: nn.Module) -> frozenset[BlockId]:
        """The middle block's first layer, as in the paper; without one, the deepest block that has self-attention."""
        blocks = self.blocks(network)
        first = {block[:2]: block for block in reversed(blocks)}
        downwards = [place for place in first if place[0] == "input"]
        deepest = max(downwards, key=lambda place: place[1]) if downwards else blocks[0][:2]
        return frozenset({first.get(("middle", 0), first[deepest])})

    def prepare(self, options: Mapping[str, Any]) -> dict[str, Any]:
        patches = options.get("patches", {})
        return {**options, "patches": {
            **patches,
            "attn1_patch": [*patches.get("attn1_patch", ()), _announce_self],
            "attn2_patch": [*patches.get("attn2_patch", ()), _announce_cross],
        }}  # fmt: skip

    def site(
        self, kind: str | None, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """Block and token grid of an announced call, as the host's transformer tells them; None: not ours."""
        block, shape = options.get("block"), options.get("activations_shape")
        if kind is None or block is None or shape is None:
            return None
        axis = 2 if heads_first else 1
        batch, _, height, width = shape
        if q.shape[0] != batch or q.shape[axis] != height * width:
            return None
        if kind == "self" and k.shape[axis] != q.shape[axis]:
            return None
        text_tokens = k.shape[axis] if kind == "cross" else 0
        return Site(BlockId(block[0], block[1], options.get("block_index", 0)), kind, (height, width), text_tokens)

    @staticmethod
    def _sections(network: nn.Module) -> Iterable[tuple[str, Iterable[Iterable[nn.Module]]]]:
        middle = getattr(network, "middle_block", None)
        yield "input", network.input_blocks
        yield "middle", [middle] if middle is not None else []
        yield "output", network.output_blocks


def family_of(network: object) -> Family | None:
    """The adapter for a diffusion network (`model.diffusion_model`, compiled or not), None if we have none for it."""
    network = getattr(network, "_orig_mod", network)
    if isinstance(network, UNetModel):
        family = UNetFamily()
        return family if family.blocks(network) else None
    return None


def block_name(block: BlockId) -> str:
    """How a block is written in a widget: "middle", "input.7"; with its layer if that is not the first, "input.7.1"."""
    place = block.section if block.section == "middle" else f"{block.section}.{block.number}"
    return f"{place}.{block.layer}" if block.layer else place


def describe_blocks(blocks: Sequence[BlockId]) -> str:
    """All valid names on one line, layers of a block as a range."""
    layers: dict[str, list[int]] = defaultdict(list)
    for block in blocks:
        layers[block_name(block._replace(layer=0))].append(block.layer)
    return ", ".join(
        name if found == [0] else f"{name} (layers {name}.{min(found)} to {name}.{max(found)})"
        for name, found in layers.items()
    )


def parse_blocks(text: str, blocks: Sequence[BlockId], default: frozenset[BlockId]) -> frozenset[BlockId]:
    """Read "auto" or names such as "middle, input.7, output.3.1"; "input.7.*" stands for all layers of the block.

    Raises ValueError that lists the valid names.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names in ([], ["auto"]):
        return default
    by_name: dict[str, set[BlockId]] = defaultdict(set)
    for block in blocks:
        first = block_name(block._replace(layer=0))
        by_name[f"{first}.{block.layer}"].add(block)
        by_name[f"{first}.*"].add(block)
    for block in blocks:  # a bare name is its block's first layer that has self-attention
        first = block_name(block._replace(layer=0))
        by_name.setdefault(first, {block})
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(
            f"Unknown block {', '.join(repr(name) for name in unknown)}. Write auto, or names from this model, "
            f"separated by commas: {describe_blocks(blocks)}."
        )
    return frozenset(block for name in names for block in by_name[name])
