"""VQAScore (arXiv 2404.01291): how probable a model that sees thinks "Yes" to whether a picture shows a text.

Any model that transformers loads with AutoModelForImageTextToText, from a folder on this machine: weights as
safetensors, no code of the folder is run, nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_management as mm
import torch
from PIL import Image
from torch import Tensor, nn

from .comfy_clip import patched
from .open_clip import UnknownScorer
from .scorer import Scorer

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'  # the paper's
WORD_MARKS = " \u2581\u0120"  # what tokenizers write for the space before a word


class Seeing(nn.Module):
    """A model of transformers, held so that ComfyUI can tell it its device, which is read-only there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


@dataclass(frozen=True, eq=False)
class VqaScorer(Scorer):
    """processor: makes a model's inputs of pictures and texts. yes: the tokens that are the word "yes"."""

    name: str
    patcher: Any = field(repr=False)
    processor: Any = field(repr=False)
    yes: Sequence[int]
    size: int = 448
    unit: str = "100 x P(yes)"
    differentiable: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    def target(self, prompt: str) -> str:
        return QUESTION.format(prompt)

    def losses(self, squares: Tensor, target: str) -> Tensor:
        """Without gradient: pictures [n, 3, height, width] go through 8 bit, as the processor wants them."""
        return torch.stack([self._loss(picture, target) for picture in squares.detach()])

    def scores(self, losses: Tensor) -> Tensor:
        return 100 * (1 - losses)

    def _loss(self, picture: Tensor, question: str) -> Tensor:
        if not torch.isfinite(picture).all():  # 8 bit would make a black picture of it
            return picture.new_tensor(torch.nan, dtype=torch.float32)
        return 1 - self.probability(to_pil(picture), question).to(picture.device)

    def probability(self, picture: Image.Image, question: str) -> Tensor:
        """How probable an answer is that begins with "yes", in any writing: a scalar in float32."""
        network = self.patcher.model.network  # loaded by the caller
        inputs = self.inputs(picture, question).to(self.patcher.load_device)
        inputs = {key: value.to(network.dtype) if torch.is_floating_point(value) else value
                  for key, value in inputs.items() if isinstance(value, Tensor)}  # fmt: skip
        with torch.no_grad():  # one token is generated: so each model builds its positions and masks itself
            made = network.generate(
                **inputs, max_new_tokens=1, do_sample=False, num_beams=1, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        return made.logits[0][0].float().softmax(dim=-1)[list(self.yes)].sum()

    def inputs(self, picture: Image.Image, question: str) -> Any:
        """By the model's chat template, else the picture's token before the question."""
        if getattr(self.processor, "chat_template", None):
            said = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt",
            )  # fmt: skip
        token = getattr(self.processor, "image_token", "")
        return self.processor(images=picture, text=f"{token}{question}", return_tensors="pt")


def to_pil(picture: Tensor) -> Image.Image:
    """[3, height, width] in 0..1 -> a picture of 8 bit."""
    pixels = (255 * picture.float()).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.movedim(0, -1).cpu().numpy())


def is_folder(config: Path) -> bool:
    """Whether a config.json tells of a model that Load Scorer takes as a folder: any kind but a CLIP, whose files are
    taken one by one."""
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
        return bool(told.get("model_type")) and told["model_type"] != "clip"
    except (OSError, ValueError, AttributeError):
        return False


def load(folder: Path) -> VqaScorer:
    """A scorer from a folder as its page on the hub has it. Raises UnknownScorer."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    here = {"local_files_only": True, "trust_remote_code": False}
    dtype = torch.bfloat16 if mm.should_use_bf16(mm.get_torch_device()) else torch.float32
    if not any(folder.glob("*.safetensors")):
        raise UnknownScorer(
            f"Folder {folder.name} has no *.safetensors. Download all files of the model's page; weights in other "
            "files (*.bin) may hold code and are not read."
        )
    try:
        processor = AutoProcessor.from_pretrained(folder, **here)
        network, told = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **here,
            torch_dtype=dtype,  # the name that transformers 4 has for it, which 5 still takes
        )  # fmt: skip
    except Exception as why:  # of transformers, safetensors, tokenizers: each has its own kinds
        said = str(why).strip().splitlines() or [""]
        code = any("trust_remote_code" in line for line in said)  # no advice to run code
        raise UnknownScorer(
            f"The model in folder {folder.name} cannot be loaded ({type(why).__name__}: "
            f"{'it wants code of its own to be run' if code else said[0][:300]}). The folder must hold all files of a "
            "model's page (config, processor, tokenizer, *.safetensors), and this version of transformers must know "
            "the model as image-text-to-text."
        ) from why
    if told["missing_keys"]:  # which transformers fills with random numbers
        lacks = sorted(told["missing_keys"])
        raise UnknownScorer(f"The weights in folder {folder.name} lack {len(lacks)}, {lacks[0]} first. Download again.")
    tokenizer = getattr(processor, "tokenizer", None)
    yes = yes_tokens({} if tokenizer is None else tokenizer.get_vocab())
    if not yes:
        raise UnknownScorer(f'The tokenizer in folder {folder.name} has no token for "yes": such a model is not known.')
    return VqaScorer(folder.name, patched(Seeing(network)), processor, yes)


def yes_tokens(vocabulary: dict[str, int]) -> list[int]:
    """The ids of those tokens that are the word "yes", whatever their case and the space before."""
    return sorted(token for word, token in vocabulary.items() if word.lstrip(WORD_MARKS).lower() == "yes")
