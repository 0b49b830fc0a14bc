"""SD1.x, SD2.x, SDXL and every other UNet built from ComfyUI's UNetModel with image transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention as host_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn

from ..compiled import original
from ..sites import CALL_STATE, BlockId, Forward, LayerTokens, Site, TextPlace

Patched = tuple[Tensor, Tensor, Tensor]
REPEATED = TextPlace(repeats=True)


def _announce(kind: str, extra_options: dict[str, Any]) -> None:
    """Tell the call's state what comes next; another pack may pass our patches on without it."""
    state = extra_options.get(CALL_STATE)
    if state is not None:
        state.forward.kind = kind


def _announce_self(n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any]) -> Patched:
    _announce("self", extra_options)
    return n, context, value


def _announce_cross(n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any]) -> Patched:
    _announce("cross", extra_options)
    return n, context, value


class UNetFamily:
    """Its transformers tell block and grid; attn1 and attn2 patches announce which kind of attention comes next."""

    name = "UNet"
    text_is_mixed = False

    def blocks(self, network: nn.Module) -> tuple[BlockId, ...]:
        """Every image transformer layer, in the order input, middle, output; ambiguous and video blocks left out."""
        return tuple(self._blocks(network))

    def has_blocks(self, network: nn.Module) -> bool:
        """Whether there are any; asked in every step."""
        return next(self._blocks(network), None) is not None

    def _blocks(self, network: nn.Module) -> Iterator[BlockId]:
        for section, modules in self._sections(network):
            for number, module in enumerate(modules):
                # A block may hold several transformers that share its name; only a single one can be told apart.
                parts = [original(part) for part in original(module)]
                spatial = [part for part in parts if isinstance(part, host_attention.SpatialTransformer)]
                if len(spatial) != 1 or isinstance(spatial[0], host_attention.SpatialVideoTransformer):
                    continue
                for layer, block in enumerate(map(original, spatial[0].transformer_blocks)):
                    if not block.disable_self_attn:
                        yield BlockId(section, number, layer)

    def module(self, network: nn.Module, block: BlockId) -> nn.Module:
        return dict(self._sections(network))[block.section][block.number]

    def default_blocks(self, network: nn.Module) -> frozenset[BlockId]:
        """The middle block's first layer, as in the paper; without one, the deepest block that has self-attention."""
        blocks = self.blocks(network)
        first = {block[:2]: block for block in reversed(blocks)}
        downwards = [place for place in first if place[0] == "input"]
        deepest = max(downwards, key=lambda place: place[1]) if downwards else blocks[0][:2]
        return frozenset({first.get(("middle", 0), first[deepest])})

    def prepare(self, network: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
        patches = options.get("patches", {})
        return {**options, "patches": {
            **patches,
            "attn1_patch": [*patches.get("attn1_patch", ()), _announce_self],
            "attn2_patch": [*patches.get("attn2_patch", ()), _announce_cross],
        }}  # fmt: skip

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """Block and token grid of an announced call, as ComfyUI's transformer tells them; None: not ours."""
        kind = forward.take_kind()
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
        layer = BlockId(block[0], block[1], options.get("block_index", 0))
        # Strided convolutions see past the far edge, so the tokens cover the latent evenly.
        return Site(layer, kind, (height, width), forward.latent_size, 0, text_tokens, REPEATED)

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        """Convolutions tell their grid; layers of transformers and of the time embedding are in a block that has
        announced it. Layers that mix frames of a video have none that is known."""
        grid = forward.around.get("block", ())
        if "time_" in name:
            return None
        if len(shape) == 4:
            return LayerTokens(grid=shape[-2:], extent=forward.latent_size, maps=True)
        if len(shape) == 3 and re.search(r"\.attn2\.to_[kv]$", name):
            return LayerTokens(shape[1], REPEATED)
        if len(shape) == 3 and grid and shape[1] == math.prod(grid):
            return LayerTokens(grid=grid, extent=forward.latent_size)
        if len(shape) == 2 and grid and ".emb_layers." in name:
            return LayerTokens(grid=grid, extent=forward.latent_size, maps=True, shared=True)
        return None

    def pictures(self, forward: Forward, rows: int) -> Sequence[int] | None:
        """Layers that mix frames of a video have a row for every place."""
        return range(rows) if rows == forward.batch else None

    def text_place(self, forward: Forward) -> TextPlace:
        return REPEATED

    def checkpointed(self, network: nn.Module) -> Iterable[nn.Module]:
        return ()

    def announcing(self, network: nn.Module) -> Iterable[nn.Module]:
        return [part for part in network.modules() if isinstance(part, (host_attention.SpatialTransformer, ResBlock))]

    def announce(self, forward: Forward, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        changes_size = isinstance(module, ResBlock) and (module.updown or module.exchange_temb_dims)
        forward.around["block"] = () if changes_size else tuple(args[0].shape[2:])

    @staticmethod
    def _sections(network: Any) -> Iterator[tuple[str, Sequence[Any]]]:
        middle = getattr(network, "middle_block", None)
        yield "input", network.input_blocks
        yield "middle", [middle] if middle is not None else []
        yield "output", network.output_blocks
