"""Diffusion transformers: SD3 and 3.5, Flux, Chroma, Qwen-Image, Lumina 2 and Z-Image, Wan video.

All of them name the running block in transformer_options (for SD3 we do) and put the image's tokens in row order, first
those of text, then the image's own, then what only some models have: padding, tokens of reference pictures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.model import Flux
from comfy.ldm.lumina.model import NextDiT, NextDiTPixelSpace
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from comfy.ldm.wan.model import CameraWanModel, VaceWanModel, WanModel
from torch import Tensor, nn

from ..sites import BlockId, Forward, LayerTokens, Site


class Transformer:
    """What the families have in common. Subclasses tell where blocks are and what surrounds the image's tokens."""

    name = ""
    sections: Mapping[str, str] = {"double": "blocks"}  # as ComfyUI calls them -> attribute that holds the blocks
    # What layers are about, by how their names begin: "image", "text", "joint" (text, then image), "map" (a convolution
    # that makes tokens); "one for ..." where a vector is taken for all tokens and could be one for each.
    layers: tuple[tuple[str, str], ...] = ()

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
        section, number = options.get("block_type"), options.get("block_index")
        if section is None or section not in self.sections or number is None:
            return None
        call = self.call(forward, section, number)
        axis = 2 if heads_first else 1
        queries, keys = q.shape[axis], k.shape[axis]
        kind = self.kind(forward.network, call)
        if kind is None or q.shape[0] != forward.batch or (kind != "cross" and queries != keys):
            return None
        patch, grid = self.patch(forward.network), self.grid(forward)
        start = queries - self.behind(forward, options, grid) - math.prod(grid)
        if start < 0 or (kind == "joint" and start != options.get("img_slice", (start,))[0]):
            return None
        block = BlockId(section, number, call if kind == "self" else 0)
        extent = tuple(tokens * size for tokens, size in zip(grid, patch))
        text = {"joint": start, "cross": keys, "self": 0}[kind]
        return Site(block, kind, grid, extent, start, text)

    def kind(self, network: Any, call: int) -> str | None:
        """Kind of a block's attention call, counted from 0; None for calls that are not about image or text tokens."""
        return "joint" if call == 0 else None

    def patch(self, network: Any) -> tuple[int, ...]:
        """Size of a token in latent pixels."""
        return (network.patch_size, network.patch_size)

    def grid(self, forward: Forward) -> tuple[int, ...]:
        """The image's tokens: the latent is padded to whole patches."""
        return tuple(-(-n // size) for n, size in zip(forward.latent_size, self.patch(forward.network)))

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        """Tokens after the image's own."""
        return sum(options.get("reference_image_num_tokens", ()))

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        """By the layer's name, never by length; None where the numbers do not add up."""
        about = next((about for begin, about in self.layers if re.match(begin, name)), "")
        if not about or (about != "map" and len(shape) != 3):
            return None
        if about == "text":
            return LayerTokens(text=shape[1])
        patch, grid = self.patch(forward.network), self.grid(forward)
        extent, own = tuple(tokens * size for tokens, size in zip(grid, patch)), math.prod(grid)
        if about == "map":
            return LayerTokens(grid=grid, extent=extent, maps=True) if shape[2:] == grid else None
        shared = about.startswith("one for ")
        text, behind = self.around(forward, about.removeprefix("one for "), 0 if shared else shape[1], own)
        if text < 0 or behind < 0 or (shared and shape[1] != 1):
            return None
        if about == "one for text":
            return LayerTokens(text=text, shared=True)
        return LayerTokens(text, grid, extent, behind, shared=shared)

    def around(self, forward: Forward, about: str, tokens: int, own: int) -> tuple[int, int]:
        """Text tokens before the image's own and others behind them. tokens: how many a layer has in all, 0 where it
        gives one vector for all."""
        return 0, tokens - own

    def announcing(self, network: Any) -> Iterable[nn.Module]:
        return ()

    def announce(self, forward: Forward, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Nothing is announced."""


class StableDiffusion3(Transformer):
    """SD3 and SD3.5. Some blocks of SD3.5 medium attend twice: jointly with the text, then among image tokens only."""

    name = "SD3"
    sections = {"double": "joint_blocks"}
    layers = (
        (r"joint_blocks\.\d+\.\w+\.adaLN_modulation|final_layer\.adaLN", ""),
        (r"joint_blocks\.\d+\.context_block|context_embedder|context_processor", "text"),
        (r"joint_blocks\.\d+\.x_block|final_layer", "image"), (r"x_embedder", "map"),
    )  # fmt: skip

    def self_attentions(self, block: Any) -> int:
        return 2 if block.x_block.x_block_self_attn else 1

    def call(self, forward: Forward, section: str, number: int) -> int:
        # ComfyUI checkpoints replaced blocks: one that is computed again for gradients begins to count anew.
        attentions = self.self_attentions(forward.network.joint_blocks[number])
        return super().call(forward, section, number) % attentions

    def prepare(self, network: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        replaced = options.get("patches_replace", {})
        blocks = replaced.get("dit", {})
        named = {key: _NamedBlock(key[1], blocks.get(key)) for key in _double_blocks(network)}
        return {**options, "patches_replace": {**replaced, "dit": {**blocks, **named}}}

    def kind(self, network: Any, call: int) -> str | None:
        return ("joint", "self")[call] if call < 2 else None


class FluxFamily(Transformer):
    """Flux, Flux 2, Kontext (whose reference pictures follow the image's tokens) and Chroma."""

    name = "Flux"
    sections = {"double": "double_blocks", "single": "single_blocks"}
    layers = (
        (r"double_blocks\.\d+\.img_mod", "one for image"), (r"double_blocks\.\d+\.txt_mod", "one for text"),
        (r"single_blocks\.\d+\.modulation", "one for joint"), (r"double_blocks\.\d+\.img_|img_in", "image"),
        (r"double_blocks\.\d+\.txt_|txt_in", "text"), (r"single_blocks", "joint"), (r"final_layer\.linear", "image"),
    )  # fmt: skip

    def around(self, forward: Forward, about: str, tokens: int, own: int) -> tuple[int, int]:
        """As the running block has got them."""
        known = forward.around
        text = known["txt"][1] if "txt" in known else -1
        if about == "text":
            return text, 0
        if about == "image":
            return 0, (tokens or known["img"][1]) - own
        return text, (tokens or known["both"][1]) - own - text

    def announcing(self, network: Any) -> Iterable[nn.Module]:
        return [*network.double_blocks, *network.single_blocks]

    def announce(self, forward: Forward, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if "img" in kwargs:
            forward.around |= {"img": tuple(kwargs["img"].shape), "txt": tuple(kwargs["txt"].shape)}
        else:
            forward.around["both"] = tuple(args[0].shape)


class QwenImage(Transformer):
    """Qwen-Image and its editing models, whose latents have a frame axis."""

    name = "Qwen-Image"
    sections = {"double": "transformer_blocks"}
    layers = (
        (r"transformer_blocks\.\d+\.(img|txt)_mod", ""),
        (r"transformer_blocks\.\d+\.(attn\.(add_|to_add_)|txt_)|txt_in", "text"),
        (r"transformer_blocks|img_in|proj_out", "image"),
    )  # fmt: skip

    def patch(self, network: Any) -> tuple[int, ...]:
        return (1, network.patch_size, network.patch_size)


class Lumina(Transformer):
    """Lumina 2 and Z-Image, which pads the image's tokens to a multiple of 32."""

    name = "Lumina"
    sections = {"double": "layers"}
    layers = (
        (r".*adaLN_modulation", ""), (r"noise_refiner|x_embedder", "image"), (r"context_refiner|cap_embedder", "text"),
        (r"layers|final_layer", "joint"),
    )  # fmt: skip

    def around(self, forward: Forward, about: str, tokens: int, own: int) -> tuple[int, int]:
        padding = self.behind(forward, {}, self.grid(forward))
        return (0, tokens - own) if about == "image" else (tokens - own - padding, padding)

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        multiple = forward.network.pad_tokens_multiple
        return -math.prod(grid) % multiple if multiple else 0


class Wan(Transformer):
    """Wan 2.x video and the models that run the same blocks beside a side network (VACE, camera control)."""

    name = "Wan"
    sections = {"double": "blocks"}
    layers = (
        (r"(vace_)?blocks\.\d+\.cross_attn\.[kv]$|text_embedding", "text"),
        (r"(vace_)?blocks\.\d+\.cross_attn\.[kv]_img", ""), (r"(vace_)?patch_embedding", "map"),
        (r"(vace_)?blocks|head\.head", "image"),
    )  # fmt: skip

    def kind(self, network: Any, call: int) -> str | None:
        # The first cross-attention of image-to-video models looks at picture features, the second at text.
        text = 1 if network.model_type == "t2v" else 2
        return {0: "self", text: "cross"}.get(call)

    def patch(self, network: Any) -> tuple[int, ...]:
        return tuple(network.patch_size)

    def grid(self, forward: Forward) -> tuple[int, ...]:
        frames, *rest = super().grid(forward)
        more = forward.inputs.get("time_dim_concat")
        return (frames if more is None else frames + -(-more.shape[2] // self.patch(forward.network)[0]), *rest)

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        patch = self.patch(forward.network)
        contexts = forward.inputs.get("context_latents") or ()
        return sum(math.prod(-(-n // size) for n, size in zip(c.shape[2:], patch)) for c in contexts)


def _double_blocks(network: Any) -> list[tuple[str, int]]:
    return [("double_block", number) for number in range(len(network.joint_blocks))]


@dataclass(frozen=True)
class _NamedBlock:
    """A block of SD3, or another node's replacement of it, that names itself as other transformers' blocks do."""

    number: int
    function: Callable[..., dict[str, Any]] | None

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        # A copy: ComfyUI checkpoints replaced blocks, and on the way back each has to find its own name again.
        options = {**args["transformer_options"], "block_type": "double", "block_index": self.number}
        args = {**args, "transformer_options": options}
        return extra["original_block"](args) if self.function is None else self.function(args, extra)


# By exact class: a subclass may run its blocks in another way.
TRANSFORMERS: Mapping[type, Transformer] = {
    OpenAISignatureMMDITWrapper: StableDiffusion3(),
    Flux: FluxFamily(),
    Chroma: FluxFamily(),
    QwenImageTransformer2DModel: QwenImage(),
    NextDiT: Lumina(),
    NextDiTPixelSpace: Lumina(),
    WanModel: Wan(),
    VaceWanModel: Wan(),
    CameraWanModel: Wan(),
}
