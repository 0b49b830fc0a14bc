"""Scorers: image and text towers that embed pictures and texts in one space, differentiable in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from .scorer import EmbeddingScorer


@dataclass(frozen=True, eq=False)
class ComfyClipScorer(EmbeddingScorer):
    """An image tower of ours and ComfyUI's CLIP-L with the text tower that was trained with it.

    network: pictures [n, 3, size, size] in 0..1 -> (vectors, anything). ComfyUI leaves out the projection into the
    common space for this kind of text encoder; here it is done.
    """

    name: str
    size: int
    patcher: Any = field(repr=False)
    clip: Any = field(repr=False)

    def image(self, squares: Tensor) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n, width], differentiable. The network is loaded by the caller."""
        return self.patcher.model(squares.to(self.patcher.load_device))[0]

    def text(self, texts: Sequence[str]) -> Tensor:
        """-> [n, width] in float32, without gradient. ComfyUI loads the text tower."""
        project = self.clip.cond_stage_model.clip_l.transformer.text_projection
        with torch.no_grad():
            encode = self.clip.encode_from_tokens
            pooled = torch.cat([encode(self.clip.tokenize(text), return_pooled="unprojected")[1] for text in texts])
            return project(pooled.float().to(project.weight.device))  # ComfyUI's layer casts its weight

    def truncated_tokens(self, prompt: str) -> int:
        """How many tokens of a text are beyond the first 75, which make the vector."""
        return _beyond_the_first(self.clip.tokenize(prompt, return_word_ids=True)["l"])


def _beyond_the_first(chunks: Sequence[Sequence[tuple[Any, ...]]]) -> int:
    """How many words' tokens lie in chunks after the first; padding, begin and end have the word number 0."""
    return sum(token[2] != 0 for chunk in chunks[1:] for token in chunk)


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """For a network whose layers are not all ComfyUI's: on its device with all of its weights or with none.

    ComfyUI leaves weights that do not fit on the CPU, from where only its own layers fetch them. Of other layers it
    does the same and says "loaded completely", and a weight beside a module's layers moves with the whole model only.
    """

    def partially_load(self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False) -> Any:
        """All of it, whatever memory is granted."""
        return super().partially_load(device_to, 1e32, force_patch_weights=force_patch_weights)  # ComfyUI's "no limit"

    def partially_unload(self, device_to: Any, memory_to_free: float = 0, force_patch_weights: bool = False) -> int:
        """How much was freed: nothing, so that ComfyUI unloads the whole."""
        return 0


def patched(network: nn.Module, patcher: Any = WholePatcher) -> Any:
    """A network as ComfyUI's memory management wants it: on its devices, in the precision that it has.

    patcher: ComfyUI's own ModelPatcher for a network of ComfyUI's, which may be loaded in part.
    """
    network = network.eval().requires_grad_(False)
    return patcher(network, mm.get_torch_device(), mm.unet_offload_device())


TOWERS = ("clip_g", "clip_h")  # text towers whose projection is in the original files


class NoPair(ValueError):
    """A CLIP_VISION and a CLIP that were not trained together; the text says what is expected."""


@dataclass(frozen=True, eq=False)
class ClipPairScorer(EmbeddingScorer):
    """ComfyUI's CLIP_VISION with the text tower of its CLIP that was trained along with it. width: of their vectors.

    ComfyUI's own preprocessing rounds to 8 bit, through which no gradient passes, so `image` does its own.
    """

    name: str
    size: int
    width: int
    mean: Sequence[float]
    std: Sequence[float]
    patcher: Any = field(repr=False)
    clip: Any = field(repr=False)
    key: str = "g"  # of the text tower's tokens
    overwrites: ClassVar[bool] = True  # what autograd keeps

    def image(self, squares: Tensor) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n, width], differentiable (in `clone_saved_tensors`). The caller loads it."""
        squares = squares.to(self.patcher.load_device)
        mean, std = (squares.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return self.patcher.model(pixel_values=(squares - mean) / std)[2]

    def text(self, texts: Sequence[str]) -> Tensor:
        """ComfyUI joins several towers' vectors; the one that is wanted comes last."""
        with torch.no_grad():
            encode = self.clip.encode_from_tokens
            pooled = torch.cat([encode(self.clip.tokenize(text), return_pooled=True)[1] for text in texts])
        return pooled[:, -self.width :].float()

    def truncated_tokens(self, prompt: str) -> int:
        """How many tokens of a text are beyond the first 75, which make the vector."""
        return _beyond_the_first(self.clip.tokenize(prompt, return_word_ids=True)[self.key])


def clip_pair(vision: Any, clip: Any) -> ClipPairScorer:
    """A scorer from what ComfyUI's loaders give. The image tower's weights are copied. Raises NoPair."""
    towers = [name for name in TOWERS if getattr(clip.cond_stage_model, name, None) is not None]
    wide = vision.config.get("projection_dim")
    if vision.model_type != "clip_vision_model" or not towers:
        raise NoPair(
            "A score needs OpenCLIP's bigG (SDXL's CLIP with clip_vision_g) or H (SD2's CLIP with clip_vision_h). "
            "CLIP-L's text projection is missing in many checkpoints: take open_clip's ViT-L-14 in Load Scorer instead."
        )
    widths = {tower: width_of(clip, tower) for tower in towers}
    if wide not in widths.values():
        raise NoPair(
            f"This CLIP_VISION gives vectors of {wide}, the text encoder of {' or '.join(map(str, widths.values()))}: "
            "they were not trained together. SDXL's CLIP goes with clip_vision_g, SD2's with clip_vision_h."
        )
    tower = next(name for name in towers if widths[name] == wide)
    if not _trained(text_model(clip, tower).text_projection):
        raise NoPair(
            "This CLIP's file has no trained text projection (some training scripts leave it out or fill it with "
            "ones), so its vectors mean nothing. Take the CLIP of the original SD2 or SDXL checkpoint, or a CLIP file "
            "of open_clip in Load Scorer instead."
        )
    model, config = vision.model, vision.config
    if not _trained(model.visual_projection):
        raise NoPair(
            'This CLIP_VISION file has no projection (ComfyUI said "missing clip vision" when it loaded it), so its '
            "vectors mean nothing. Take a whole CLIP vision file, such as clip_vision_g."
        )
    copy = type(model)(config, torch.float32, mm.unet_offload_device(), comfy.ops.disable_weight_init)
    copy.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    return ClipPairScorer(
        "CLIP_VISION and CLIP", vision.image_size, wide, vision.image_mean, vision.image_std,
        patched(copy, comfy.model_patcher.ModelPatcher), clip, tower.removeprefix("clip_"),
    )  # fmt: skip


def _trained(projection: Any) -> bool:
    """False for a layer that no file filled: its matrix is as the memory was, zeros as a rule, or none at all, or has
    not been given memory yet; or a script has filled it with ones. Rows of trained projections are finite, none is
    empty, they are of like lengths, and they differ."""
    weight = getattr(projection, "weight", None)
    if weight is None or weight.is_meta:
        return False
    rows = weight.detach().float()
    lengths = rows.norm(dim=1)
    alike = lengths.isfinite().all() and lengths.amin() > 0 and lengths.amax() < 1e3 * lengths.amin()
    return bool(alike and (rows != rows[:1]).any())


def width_of(clip: Any, tower: str) -> int:
    """Length of the vectors of a CLIP's text tower (one of TOWERS), told by its projection."""
    return int(text_model(clip, tower).text_projection.out_features)  # which is there even where its weight is not


def text_model(clip: Any, tower: str) -> Any:
    """ComfyUI's network of a CLIP's text tower (one of TOWERS)."""
    return getattr(clip.cond_stage_model, tower).transformer
