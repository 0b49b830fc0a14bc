"""How blocks of a model are written in widgets: "middle", "input.7.1", "double.9"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .sites import BlockId


def block_name(block: BlockId) -> str:
    """How a block is written in a widget: "middle", "input.7"; with its layer if that is not the first, "input.7.1"."""
    place = block.section if block.section == "middle" else f"{block.section}.{block.number}"
    return f"{place}.{block.layer}" if block.layer else place


def describe_blocks(blocks: Sequence[BlockId]) -> str:
    """All valid names on one line; runs of alike blocks and the layers of a block as ranges."""
    layers: dict[BlockId, list[int]] = defaultdict(list)
    for block in blocks:
        layers[block._replace(layer=0)].append(block.layer)
    runs: list[list[BlockId]] = []
    for block in layers:
        last = runs[-1][-1] if runs else None
        if last and block == last._replace(number=last.number + 1) and layers[last] == layers[block]:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(_describe_run(run[0], run[-1], layers[run[0]]) for run in runs)


def _describe_run(first: BlockId, last: BlockId, layers: Sequence[int]) -> str:
    names = block_name(first) if first == last else f"{block_name(first)} to {block_name(last)}"
    if layers == [0]:
        return names
    return f"{names} (layers {block_name(first)}.{min(layers)} to {block_name(last)}.{max(layers)})"


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
