"""Transformers that draw pictures: SD3 and 3.5, Flux, Chroma, Qwen-Image, Lumina 2 and Z-Image, Krea 2, Lens,
HiDream I1, JoyImage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from comfy.ldm.chroma.model import Chroma
from comfy.ldm.chroma_radiance.model import ChromaRadiance as ChromaRadianceNetwork
from comfy.ldm.flux.model import Flux
from comfy.ldm.hidream.model import HiDreamImageTransformer2DModel
from comfy.ldm.joyimage.model import JoyImageTransformer3DModel
from comfy.ldm.krea2.model import SingleStreamDiT
from comfy.ldm.lens.model import LensTransformer2DModel
from comfy.ldm.lumina.model import NextDiT, NextDiTPixelSpace
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel
from torch import Tensor, nn

from ..sites import Forward, LayerTokens, Site, TextPlace
from .transformer import TextBehind, Transformer, naming_blocks, tokens_of

T = TypeVar("T", Site, LayerTokens)
STYLE = "UsoStyleProjectorPatch"  # class of ComfyUI's patch that puts tokens of a style picture before the prompt


class StableDiffusion3(Transformer):
    """SD3 and SD3.5. Some blocks of SD3.5 medium attend twice: jointly with the text, then among image tokens only."""

    name, models = "SD3", "SD3 and SD3.5"
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
        return naming_blocks(len(network.joint_blocks), options)

    def checkpointed(self, network: Any) -> Iterable[nn.Module]:
        return network.joint_blocks

    def kind(self, network: Any, call: int) -> str | None:
        return ("joint", "self")[call] if call < 2 else None

    def text_place(self, forward: Forward) -> TextPlace:
        return TextPlace(repeats=True)


class FluxFamily(Transformer):
    """Flux, Flux 2, Kontext (whose reference pictures follow the image's tokens) and Chroma."""

    name, models = "Flux", "Flux 1 and 2, Kontext, Chroma"
    sections = {"double": "double_blocks", "single": "single_blocks"}
    layers: tuple[tuple[str, str], ...] = (
        (r"double_blocks\.\d+\.img_mod", "one for image"), (r"double_blocks\.\d+\.txt_mod", "one for text"),
        (r"single_blocks\.\d+\.modulation", "one for joint"), (r"double_blocks\.\d+\.img_|img_in", "image"),
        (r"double_blocks\.\d+\.txt_|txt_in", "text"), (r"single_blocks", "joint"), (r"final_layer\.linear", "image"),
    )  # fmt: skip

    def around(
        self, forward: Forward, about: str, tokens: int, grid: tuple[int, ...]
    ) -> tuple[int, int, int]:
        """As the running block has got them."""
        known, own, before = forward.around, math.prod(grid), self.before(forward)
        text = known["txt"][1] if "txt" in known else -1
        if about == "text":
            return text, 0, 0
        if about == "image":
            before = 0 if tokens == own else before  # the last layer has the image's own
            return 0, before, (tokens or known["img"][1]) - own - before
        return text, before, (tokens or known["both"][1]) - own - before - text

    def text_place(self, forward: Forward) -> TextPlace:
        """Flux 2's short prompts are padded in front."""
        padded = getattr(forward.network.params, "global_modulation", False)
        return TextPlace(repeats=not padded, at_end=padded)

    def announcing(self, network: Any) -> Iterable[nn.Module]:
        return [*network.double_blocks, *network.single_blocks]

    def announce(self, forward: Forward, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if "img" in kwargs:
            forward.around |= {"img": tuple(kwargs["img"].shape), "txt": tuple(kwargs["txt"].shape)}
        else:
            forward.around["both"] = tuple(args[0].shape)


class FluxItself(FluxFamily):
    """Flux 1 and 2, where patches of other nodes may add to the text."""

    time_of_references = True

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        return self._behind_style(forward, super().site(forward, options, q, k, heads_first))

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        return self._behind_style(forward, super().layer_tokens(forward, name, shape))

    def _behind_style(self, forward: Forward, found: T | None) -> T | None:
        """With the prompt behind a style's tokens; None where it is not known what was added to it, and where."""
        prompt = forward.inputs.get("c_crossattn")
        added = found.text_tokens - prompt.shape[1] if found is not None and prompt is not None else 0
        if found is None or not found.text_tokens or not added:
            return found
        styled = any(type(patch).__name__ == STYLE for patch in forward.patches.get("post_input", ()))
        return replace(found, text=replace(found.text, start=added)) if styled and added > 0 else None


class QwenImage(Transformer):
    """Qwen-Image and its editing models, whose latents have a frame axis."""

    name = models = "Qwen-Image"
    time_of_references = True
    sections = {"double": "transformer_blocks"}
    layers = (
        (r"transformer_blocks\.\d+\.(img|txt)_mod", ""),
        (r"transformer_blocks\.\d+\.(attn\.(add_|to_add_)|txt_)|txt_in", "text"),
        (r"transformer_blocks|img_in|proj_out", "image"),
    )  # fmt: skip

    def patch(self, network: Any) -> tuple[int, ...]:
        return (1, network.patch_size, network.patch_size)


class Lumina(Transformer):
    """Lumina 2 and Z-Image, which pads every piece of its sequence to a multiple of 32.

    With reference pictures: [their texts | the prompt | texts left over] [what SigLIP sees of each, and of the image]
    [the pictures | the image | its padding].
    """

    name, models = "Lumina", "Lumina 2, Z-Image"
    sections = {"double": "layers"}
    layers = (
        (r".*adaLN_modulation", ""), (r"noise_refiner", "image"), (r"x_embedder", "embedded image"),
        (r"context_refiner", "text"), (r"cap_embedder", "prompt"), (r"layers|final_layer", "joint"),
    )  # fmt: skip
    shared_layers = (("cap_embedder", "ref_contexts"),)

    def text_place(self, forward: Forward) -> TextPlace:
        texts, pictures = forward.inputs.get("ref_contexts") or (), forward.inputs.get("ref_latents") or ()
        lengths = [each.shape[1] for each in texts[: len(pictures)]]
        nothing = self._padded(forward, 1)  # of a picture without a text
        missing = len(pictures) - len(lengths)
        return TextPlace(start=sum(self._padded(forward, n) for n in lengths) + missing * nothing)

    def before(self, forward: Forward) -> int:
        """What SigLIP sees, then the reference pictures."""
        pictures = forward.inputs.get("ref_latents") or ()
        if not pictures:
            return 0
        seen = forward.inputs.get("siglip_feats") or ()
        counts = [math.prod(each.shape[1:3]) if each is not None else 1 for each in (*seen, None)]
        counts += [1] * (len(pictures) + 1 - len(counts))
        siglip = sum(self._padded(forward, n) for n in counts) if forward.network.siglip_embedder is not None else 0
        return siglip + self._pictures(forward)

    def _pictures(self, forward: Forward) -> int:
        """Tokens of reference pictures."""
        size, pictures = forward.network.patch_size, forward.inputs.get("ref_latents") or ()
        return sum(self._padded(forward, (p.shape[-2] // size) * (p.shape[-1] // size)) for p in pictures)

    def _padded(self, forward: Forward, tokens: int) -> int:
        multiple = forward.network.pad_tokens_multiple or 1
        return -(-tokens // multiple) * multiple

    def around(
        self, forward: Forward, about: str, tokens: int, grid: tuple[int, ...]
    ) -> tuple[int, int, int]:
        own, padding = math.prod(grid), self.behind(forward, {}, grid)
        if about == "embedded image":
            return 0, 0, 0 if tokens == own and not self._pictures(forward) else -1
        if about == "image":
            before = self._pictures(forward)
            return 0, before, tokens - own - before
        before = self.before(forward)
        return tokens - own - padding - before, before, padding

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        own = math.prod(grid)
        return self._padded(forward, own) - own


class ChromaRadiance(FluxFamily):
    """Chroma on pixels: patches of 16."""

    name = models = "Chroma Radiance"
    layers = ((r"img_in_patch", "map"), *FluxFamily.layers)


class Krea2(Transformer):
    """Krea 2, one stream of blocks; reference pictures follow the image's tokens. Its latents have a frame axis."""

    name = models = "Krea 2"
    sections = {"single": "blocks"}
    layers = ((r"blocks|last\.linear", "joint"), (r"first$", "image"), (r"txtmlp|txtfusion\.refiner", "text"))

    def patch(self, network: Any) -> tuple[int, ...]:
        return (1, network.patch, network.patch)

    def grid(self, forward: Forward) -> tuple[int, ...]:
        size = forward.latent_size
        return tuple(-(-n // by) for n, by in zip((*(1,) * (3 - len(size)), *size), self.patch(forward.network)))

    def around(
        self, forward: Forward, about: str, tokens: int, grid: tuple[int, ...]
    ) -> tuple[int, int, int]:
        text = forward.inputs["c_crossattn"].shape[1] if about == "joint" else 0
        return text, 0, tokens - math.prod(grid) - text


class Lens(TextBehind):
    """Lens, a token to a latent pixel; text follows the image's tokens."""

    name = models = "Lens"
    sections = {"double": "transformer_blocks"}
    layers = (
        (r"transformer_blocks\.\d+\.(txt_mlp|attn\.(txt_qkv|to_add_out))|txt_in", "text"),
        (r"transformer_blocks\.\d+\.(img_mlp|attn\.(img_qkv|to_out))|img_in|proj_out", "image"),
    )  # fmt: skip

    def patch(self, network: Any) -> tuple[int, ...]:
        return (1, 1)


class HiDream(TextBehind):
    """HiDream I1: the image, T5's text, then Llama's, its last layer's and the block's own.

    Blocks tell nothing of themselves, but every one attends once, and nothing else does: calls are counted.
    """

    name = models = "HiDream I1"
    sections = {"double": "double_stream_blocks", "single": "single_stream_blocks"}
    layers = (
        (r"double_stream_blocks\.\d+\.block\.(attn1\.to_\w+_t$|ff_t)", "text"),
        (r"(double|single)_stream_blocks\.\d+\.block\.(attn1|ff_i\.shared_experts|ff_i\.w)", "image"),
        (r"x_embedder|final_layer\.linear", "image"),
    )  # fmt: skip

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        if self._widened(forward):
            return None
        number, double = forward.count(("all", 0)), len(forward.network.double_stream_blocks)
        section, number = ("double", number) if number < double else ("single", number - double)
        return super().site(forward, {**options, "block_type": section, "block_index": number}, q, k, heads_first)

    def call(self, forward: Forward, section: str, number: int) -> int:
        return 0

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        return None if self._widened(forward) else super().layer_tokens(forward, name, shape)

    def _widened(self, forward: Forward) -> bool:
        """Whether a picture to edit stands beside the one that is drawn, so that their rows alternate."""
        return forward.inputs.get("image_cond") is not None


class JoyImage(TextBehind):
    """JoyImage: the image, the reference pictures, then text. Its latents have a frame axis."""

    name = models = "JoyImage"
    sections = {"double": "double_blocks"}
    layers = (
        (r"double_blocks\.\d+\.(txt_mlp|attn\.txt_attn_(qkv|proj))|condition_embedder\.text_embedder", "text"),
        (r"double_blocks\.\d+\.(img_mlp|attn\.img_attn_(qkv|proj))|proj_out", "image"), (r"img_in", "map"),
    )  # fmt: skip
    shared_layers = (("img_in", "ref_latents"),)

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        pictures = forward.inputs.get("ref_latents") or ()
        return sum(tokens_of(picture, self.patch(forward.network)) for picture in pictures)


IMAGE: Mapping[type, Transformer] = {
    OpenAISignatureMMDITWrapper: StableDiffusion3(),
    Flux: FluxItself(),
    Chroma: FluxFamily(),
    ChromaRadianceNetwork: ChromaRadiance(),
    QwenImageTransformer2DModel: QwenImage(),
    NextDiT: Lumina(),
    NextDiTPixelSpace: Lumina(),
    SingleStreamDiT: Krea2(),
    LensTransformer2DModel: Lens(),
    HiDreamImageTransformer2DModel: HiDream(),
    JoyImageTransformer3DModel: JoyImage(),
}
