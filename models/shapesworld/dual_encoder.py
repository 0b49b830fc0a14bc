"""ShapesWorld with two text encoders and a style vector: eDiff-I (arXiv 2211.01324) in miniature.

The generator reads CLIP A's tokens [B, 77, 256] and a small T5's [B, n, 256] side by side, as SD3 does, and takes CLIP
A's vector of a picture beside the time, as unCLIP does. In training each of the three was left out by itself.
"""

from __future__ import annotations

from inspect import getfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_base
import comfy.ops
import comfy.sd1_clip
import comfy.text_encoders.t5
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor
from transformers import T5TokenizerFast

from . import evaluators, generator

STYLE_WIDTH = 256  # of CLIP A's vectors
UNET_CONFIG = {**generator.UNET_CONFIG, "adm_in_channels": STYLE_WIDTH, "num_classes": "sequential"}
T5_CONFIG = {
    "d_model": 128,
    "d_kv": 32,
    "num_heads": 4,
    "d_ff": 256,
    "num_layers": 2,
    "dense_act_fn": "relu",
    "is_gated_act": False,
    "model_type": "t5",
    "vocab_size": 32128,
}
T5_LENGTH, T5_END, T5_PAD = 77, 1, 0
VISION_CONFIG = {**evaluators.VISION_CONFIG, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def unet(operations=comfy.ops.disable_weight_init) -> torch.nn.Module:
    """A bare UNetModel with uninitialized weights."""
    return UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=operations)


def style_vector(embeddings: Tensor) -> Tensor:
    """CLIP A's embeddings of pictures [..., 256] as the generator takes them: of unit variance."""
    return F.normalize(embeddings.float(), dim=-1) * STYLE_WIDTH**0.5


class StyledModel(comfy.model_base.BaseModel):
    """ComfyUI's unCLIPConditioning reaches the generator as a style vector; without it the vector is zero."""

    def encode_adm(self, **given: Any) -> Tensor:
        """[1, 256]: the sum of the styles, each by its strength."""
        total = torch.zeros(1, STYLE_WIDTH, device=given["device"])
        for style in given.get("unclip_conditioning") or ():
            if style["noise_augmentation"]:
                raise ValueError(
                    "ShapesWorld's style has no noise augmentation: set noise_augmentation of unCLIPConditioning to 0."
                )
            embeddings = style["clip_vision_output"].image_embeds
            if embeddings.shape[-1] != STYLE_WIDTH:
                raise ValueError(
                    "ShapesWorld's style is a picture seen by its own CLIP_VISION: connect that output of Load Demo "
                    f"Model (this one has {embeddings.shape[-1]} numbers per picture, not {STYLE_WIDTH})."
                )
            total = total + style["strength"] * style_vector(embeddings).to(total).sum(0, keepdim=True)
        return total


class Config(generator.ShapesWorldConfig):
    """ComfyUI's description of the variant."""

    def __init__(self, latent_format: generator.ShapesWorldLatent) -> None:
        super().__init__(latent_format)
        self.unet_config = dict(UNET_CONFIG)

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> StyledModel:
        """The model with the style vector's input; its weights are loaded later."""
        return StyledModel(self, model_type=self.model_type(state_dict, prefix), device=device)


class T5Tokenizer(comfy.sd1_clip.SDTokenizer):
    """ComfyUI's T5 tokenizer."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(
            str(Path(getfile(comfy.text_encoders.t5)).parent / "t5_tokenizer"), pad_with_end=False,
            embedding_directory=embedding_directory, embedding_size=T5_CONFIG["d_model"], embedding_key="t5",
            tokenizer_class=T5TokenizerFast, has_start_token=False, pad_to_max_length=False, max_length=99999999,
            min_length=T5_LENGTH, tokenizer_data=tokenizer_data or {},
        )  # fmt: skip


class Tokenizer:
    """Prompts for both encoders: "l" is CLIP A, "t5" the other."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        given = {"embedding_directory": embedding_directory, "tokenizer_data": tokenizer_data or {}}
        self.parts = {"l": comfy.sd1_clip.SDTokenizer(**given), "t5": T5Tokenizer(**given)}

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **more: Any) -> dict[str, list]:
        """Sections of (id, weight) by encoder; with return_word_ids of (id, weight, word number; 0: none)."""
        return {name: part.tokenize_with_weights(text, return_word_ids, **more) for name, part in self.parts.items()}

    def untokenize(self, token_weight_pair: Any) -> list:
        """Each of CLIP A's tokens with its piece of text."""
        return self.parts["l"].untokenize(token_weight_pair)

    def state_dict(self) -> dict:
        """Nothing to save with the weights: both vocabularies come with ComfyUI."""
        return {}


class TextModel(torch.nn.Module):
    """CLIP A's tokens and then T5's, brought to the same width: [B, 77 + n, 256]."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict | None = None) -> None:
        super().__init__()
        given = {"device": device, "dtype": dtype}
        options = model_options or {}
        self.clip_l = comfy.sd1_clip.SD1CheckpointClipModel(
            **given, model_options={**options, "model_name": "clip_l", "clip_l_model_config": generator.TEXT_CONFIG}
        )
        self.t5 = comfy.sd1_clip.SDClipModel(
            **given, textmodel_json_config=dict(T5_CONFIG), model_class=comfy.text_encoders.t5.T5,
            special_tokens={"end": T5_END, "pad": T5_PAD}, model_options={**options, "model_name": "t5"},
        )  # fmt: skip
        self.projection = comfy.ops.manual_cast.Linear(
            T5_CONFIG["d_model"], generator.TEXT_CONFIG["hidden_size"], **given
        )
        self.dtypes = {dtype} - {None}

    def set_clip_options(self, options: dict) -> None:
        """ComfyUI's options for what is encoded next. T5 takes the device only: layer and projection are CLIP A's."""
        self.clip_l.set_clip_options(options)
        self.t5.set_clip_options({key: value for key, value in options.items() if key == "execution_device"})

    def reset_clip_options(self) -> None:
        """Back to the defaults, in both encoders."""
        self.clip_l.reset_clip_options()
        self.t5.reset_clip_options()

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, Tensor]:
        """Tokens by encoder -> the prompt [1, tokens, 256], CLIP A's pooled vector [1, 256]."""
        clip, pooled = self.clip_l.encode_token_weights(tokens["l"])
        t5 = self.t5.encode_token_weights(tokens["t5"])[0]
        return torch.cat([clip, self.projection(t5).to(clip)], dim=1), pooled

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        """Load weights by the names of this module; returns which are missing and which are unexpected."""
        return self.load_state_dict(state, strict=False)


def clip_vision(state: dict[str, Tensor]) -> comfy.clip_vision.ClipVisionModel:
    """CLIP A's image tower as ComfyUI's CLIP_VISION. state: under the names of CLIPVisionModelProjection."""
    vision = comfy.clip_vision.ClipVisionModel(dict(VISION_CONFIG))
    vision.load_sd(state)
    return vision
