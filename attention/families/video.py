"""Transformers that draw videos, and pictures as videos of one frame: Wan, HunyuanVideo, Kandinsky 5, Cosmos, LTX,
MiniMax H3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from comfy.ldm.anima.model import Anima
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.ldm.hunyuan_video.model import HunyuanVideo as HunyuanVideoNetwork
from comfy.ldm.kandinsky5.model import Kandinsky5 as Kandinsky5Network
from comfy.ldm.lightricks.av_model import LTXAVModel
from comfy.ldm.lightricks.model import LTXVModel
from comfy.ldm.minimax.model import MiniMaxH3Model
from comfy.ldm.wan.model import (
    CameraWanModel,
    HumoWanModel,
    SCAIL2WanModel,
    SCAILWanModel,
    VaceWanModel,
    WanModel,
    WanModel_S2V,
)
from comfy.ldm.wan.model_animate import AnimateWanModel
from comfy.ldm.wan.model_wandancer import WanDancerModel
from torch import Tensor

from ..sites import Forward, LayerTokens, Site, TextPlace
from .image import FluxFamily
from .transformer import Transformer, naming_blocks, tokens_of


def _frames(latent: Tensor | None, patch: tuple[int, ...]) -> int:
    """How many frames of tokens a latent [batch, channels, frames, ...] becomes; 0 for none."""
    return 0 if latent is None else -(-latent.shape[2] // patch[0])


class Wan(Transformer):
    """Wan 2.x video and the models that run the same blocks beside a side network (VACE, camera control)."""

    name, models = "Wan", "Wan 2.x with VACE, Animate, S2V, HuMo, SCAIL"
    sections = {"double": "blocks"}
    layers = (
        (r"(vace_)?blocks\.\d+\.cross_attn\.[kv]$|text_embedding", "text"),
        (r"(vace_)?blocks\.\d+\.(cross_attn\.[kv]_img|audio)", ""), (r"(vace_)?patch_embedding", "map"),
        (r"(vace_)?blocks|head\.head", "image"),
    )  # fmt: skip
    shared_layers: tuple[tuple[str, str], ...] = (("patch_embedding", "context_latents"),)

    def kind(self, network: Any, call: int) -> str | None:
        # The first cross-attention of image-to-video models looks at picture features, the second at text.
        text = 1 if network.model_type == "t2v" else 2
        return {0: "self", text: "cross"}.get(call)

    def around(
        self, forward: Forward, about: str, tokens: int, grid: tuple[int, ...]
    ) -> tuple[int, int, int]:
        before = self.start(forward, {}, tokens, grid)
        return 0, before, tokens - math.prod(grid) - before

    def frames_around(self, forward: Forward) -> tuple[int, int]:
        return 0, _frames(forward.inputs.get("time_dim_concat"), self.patch(forward.network))

    def behind(self, forward: Forward, options: Mapping[str, Any], grid: tuple[int, ...]) -> int:
        """Reference pictures: Phantom's as further frames, others as latents of their own."""
        patch, contexts = self.patch(forward.network), forward.inputs.get("context_latents") or ()
        return sum(tokens_of(each, patch) for each in (*contexts, forward.inputs.get("time_dim_concat")))


class Vace(Wan):
    """Wan with VACE: behind a block runs one of the side network, once for each thing that it is shown, on as many
    tokens and the same text."""

    def call(self, forward: Forward, section: str, number: int) -> int:
        return super().call(forward, section, number) % 2

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """Another node that attends to text more than once shifts what follows: better none than the wrong one."""
        found = super().site(forward, options, q, k, heads_first)
        text = found is not None and found.kind == "cross"
        return None if text and k.shape[1] != forward.inputs["c_crossattn"].shape[1] else found


class WanWithReferencesBehind(Wan):
    """HuMo and S2V, which put reference pictures (and S2V the frames before) behind the video's tokens."""

    shared_layers = (("patch_embedding", "reference_latent"),)

    def start(self, forward: Forward, options: Mapping[str, Any], tokens: int, grid: tuple[int, ...]) -> int:
        return 0


class Scail(Wan):
    """SCAIL, whose reference pictures come before the video's tokens, and whose pose comes behind them."""

    def frames_around(self, forward: Forward) -> tuple[int, int]:
        return _frames(forward.inputs.get("reference_latent"), self.patch(forward.network)), 0

    def start(self, forward: Forward, options: Mapping[str, Any], tokens: int, grid: tuple[int, ...]) -> int:
        return tokens_of(forward.inputs.get("reference_latent"), self.patch(forward.network))


class HunyuanVideo(FluxFamily):
    """HunyuanVideo and HunyuanImage 2.1: the blocks of Flux. A reference picture comes before the image's tokens."""

    name, models = "HunyuanVideo", "HunyuanVideo, HunyuanImage 2.1"
    layers = ((r"img_in", "map"), (r"txt_in", "prompt"), *FluxFamily.layers)
    shared_layers = (("img_in", "ref_latent"),)

    def before(self, forward: Forward) -> int:
        return tokens_of(forward.inputs.get("ref_latent"), self.patch(forward.network))

    def text_place(self, forward: Forward) -> TextPlace:
        """What a picture shows and, in HunyuanVideo 1.5, what is written in it come before the prompt."""
        seen, written = forward.inputs.get("clip_fea"), forward.inputs.get("txt_byt5")
        first = [seen, written if forward.network.cond_type_embedding is not None else None]
        return TextPlace(start=sum(each.shape[1] for each in first if each is not None))


class SelfAndCross(Transformer):
    """Blocks that attend first among the video's tokens, then to the text."""

    def kind(self, network: Any, call: int) -> str | None:
        return {0: "self", 1: "cross"}.get(call)


class Kandinsky5(SelfAndCross):
    """Kandinsky 5, video and image."""

    name = models = "Kandinsky 5"
    sections = {"double": "visual_transformer_blocks"}
    layers = (
        (r"visual_transformer_blocks\.\d+\.visual_modulation", ""),
        (r"visual_transformer_blocks\.\d+\.cross_attention\.to_(key|value)", "text"),
        (r"text_transformer_blocks|text_embeddings", "text"),
        (r"visual_transformer_blocks|visual_embeddings|out_layer\.out_layer", "image"),
    )  # fmt: skip


class CosmosPredict2(SelfAndCross):
    """Cosmos Predict2 and Anima, whose blocks tell their number only."""

    name, models = "Cosmos Predict2", "Cosmos Predict2, Anima"
    unnamed = "double"
    layers = (
        (r"blocks\.\d+\.cross_attn\.[kv]_proj", "text"),
        (r"blocks\.\d+\.(self_attn|cross_attn|mlp)|x_embedder|final_layer\.linear", "image"),
    )  # fmt: skip

    def patch(self, network: Any) -> tuple[int, ...]:
        return (network.patch_temporal, network.patch_spatial, network.patch_spatial)


class Ltxv(SelfAndCross):
    """LTX-Video, a token to a latent pixel; its blocks do not name themselves."""

    name = models = "LTX-Video"
    sections = {"double": "transformer_blocks"}
    layers: tuple[tuple[str, str], ...] = (
        (r"transformer_blocks\.\d+\.attn2\.to_[kv]|caption_projection", "text"),
        (r"transformer_blocks\.\d+\.(attn|ff)|patchify_proj|proj_out", "image"),
    )  # fmt: skip

    def prepare(self, network: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return naming_blocks(len(network.transformer_blocks), options)

    def patch(self, network: Any) -> tuple[int, ...]:
        return (1, 1, 1)

    def grid(self, forward: Forward) -> tuple[int, ...]:
        """Without the guiding frames, which are appended to the latent itself."""
        frames, height, width = forward.latent_size
        guides = forward.inputs.get("keyframe_idxs")
        return (frames if guides is None else frames - guides.shape[2] // (height * width), height, width)

    def start(self, forward: Forward, options: Mapping[str, Any], tokens: int, grid: tuple[int, ...]) -> int:
        return 0

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        axis = 2 if heads_first else 1
        forward.around["lengths"] = (q.shape[axis], k.shape[axis])
        return super().site(forward, options, q, k, heads_first)

    def call(self, forward: Forward, section: str, number: int) -> int:
        """Where guiding frames have a strength or a mask of their own, a block's first attention is computed in parts:
        that of the video, then those of the guiding frames, which are none of its calls here (-1)."""
        call, (queries, keys) = super().call(forward, section, number), forward.around["lengths"]
        parts, left = forward.around["parts"] if call else (0, keys)  # those before, queries still to come
        if left > 0:
            forward.around["parts"] = (parts + 1, left - queries)
            return -1 if call else 0
        return call - parts + 1

    def fits(self, options: Mapping[str, Any], queries: int, keys: int, grid: tuple[int, ...]) -> bool:
        """All tokens look at all, or the video's own."""
        return queries in (keys, math.prod(grid))


class LtxvWithSound(Ltxv):
    """LTX-2, whose blocks attend in the video first, then in the sound, then from one to the other."""

    models = "LTX-2 with sound"
    text_is_mixed = True
    layers = (
        *Ltxv.layers,
        (r"transformer_blocks\.\d+\.(audio_to_video_attn\.to_(q|out)|video_to_audio_attn\.to_[kv]$)", "image"),
    )  # fmt: skip

    def site(
        self, forward: Forward, options: Mapping[str, Any], q: Tensor, k: Tensor, heads_first: bool
    ) -> Site | None:
        """Where a node has the video left out, a block's first calls are those of the sound."""
        return super().site(forward, options, q, k, heads_first) if options.get("run_vx", True) else None


class MiniMaxH3(Transformer):
    """MiniMax H3: text, reference pictures and sound, sound, video, in one sequence without an axis for the batch."""

    name, models = "MiniMax H3", "MiniMax H3, with sound"
    sections = {"double": "blocks"}
    text_is_mixed = True
    layers = ((r"blocks\.\d+\.(attn|mlp)", "joint"), (r"condition_proj|token_refiner", "text"))

    def prepare(self, network: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        return naming_blocks(len(network.blocks), options)

    def joint_text(
        self, forward: Forward, options: Mapping[str, Any], tokens: int, start: int, grid: tuple[int, ...]
    ) -> tuple[int, int]:
        return 0, min(start, forward.inputs["c_crossattn"].shape[1])

    def layer_tokens(self, forward: Forward, name: str, shape: tuple[int, ...]) -> LayerTokens | None:
        return super().layer_tokens(forward, name, (1, *shape)) if len(shape) == 2 else None

    def around(
        self, forward: Forward, about: str, tokens: int, grid: tuple[int, ...]
    ) -> tuple[int, int, int]:
        text = forward.inputs["c_crossattn"].shape[1]
        return text, tokens - text - math.prod(grid), 0


VIDEO: Mapping[type, Transformer] = {
    WanModel: Wan(),
    VaceWanModel: Vace(),
    CameraWanModel: Wan(),
    AnimateWanModel: Wan(),
    WanDancerModel: Wan(),
    HumoWanModel: WanWithReferencesBehind(),
    WanModel_S2V: WanWithReferencesBehind(),
    SCAILWanModel: Scail(),
    SCAIL2WanModel: Scail(),
    HunyuanVideoNetwork: HunyuanVideo(),
    Kandinsky5Network: Kandinsky5(),
    MiniTrainDIT: CosmosPredict2(),
    Anima: CosmosPredict2(),
    LTXVModel: Ltxv(),
    LTXAVModel: LtxvWithSound(),
    MiniMaxH3Model: MiniMaxH3(),
}
