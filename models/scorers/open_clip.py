"""CLIP scorers from local weight files, open_clip's and transformers': which architecture a file is, and the scorer."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management as mm
import torch
from torch import Tensor

from .. import weight_files
from . import transformers_clip
from .comfy_clip import patched
from .scorer import EmbeddingScorer

logger = logging.getLogger(__name__)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, used by all of these


class UnknownScorer(ValueError):
    """A file that is no CLIP of a kind we know; the text says what was found and what is expected."""


def library() -> Any:
    """The package open_clip: the one that ComfyUI itself does not need, so it may be missing. Raises UnknownScorer."""
    try:
        import open_clip
    except (ImportError, RuntimeError) as why:  # or one of the packages that it needs is broken
        raise UnknownScorer(
            f"the package open_clip cannot be used ({why}). Install it where ComfyUI runs: pip install open_clip_torch."
        ) from why
    return open_clip


class Shape(NamedTuple):
    """What tells one architecture from another: the picture tower's width, layers, patch and grid; the text's width."""

    width: int
    layers: int
    patch: int
    grid: int
    text: int


ARCHITECTURES = {
    Shape(768, 12, 32, 7, 512): "ViT-B-32",
    Shape(768, 12, 16, 14, 512): "ViT-B-16",
    Shape(1024, 24, 14, 16, 768): "ViT-L-14",
    Shape(1024, 24, 14, 24, 768): "ViT-L-14-336",
    Shape(1280, 32, 14, 16, 1024): "ViT-H-14",
    Shape(1408, 40, 14, 16, 1024): "ViT-g-14",
    Shape(1664, 48, 14, 16, 1280): "ViT-bigG-14",
}
ACTIVATIONS = ("auto", "gelu", "quick gelu")
NAMELESS = {"model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model"}  # as files of hubs are called
HPS_V1 = re.compile(r"hps[^a-z0-9]?v?1")
CURE = (
    "It may be damaged or hold code instead of weights (TorchScript): take the file that open_clip or the model's page "
    "offers as state dict or safetensors."
)


@dataclass(frozen=True, eq=False)
class OpenClipScorer(EmbeddingScorer):
    """A CLIP of open_clip. context: how many tokens of a text it reads. quick: whether it has OpenAI's activation."""

    name: str
    size: int
    context: int
    patcher: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    letterbox: bool = False
    quick: bool = False

    @property
    def width(self) -> int:
        """Of its vectors."""
        return int(self.patcher.model.visual.output_dim)

    def image(self, squares: Tensor) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n, width], differentiable. The network is loaded by the caller."""
        squares = squares.to(self.patcher.load_device)
        mean, std = (squares.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return self.patcher.model.encode_image((squares - mean) / std)

    def text(self, texts: Sequence[str]) -> Tensor:
        """-> [n, width], without gradient. Loads the network; tokens beyond the context are cut off."""
        mm.load_models_gpu([self.patcher])
        with torch.no_grad():
            return self.patcher.model.encode_text(self.tokenizer(list(texts)).to(self.patcher.load_device))

    def truncated_tokens(self, text: str) -> int:
        """How many tokens of a text are beyond the context."""
        return max(0, len(self.tokenizer.encode(text)) + 2 - self.context)


def load(path: Path, activation: str = "auto") -> OpenClipScorer:
    """A scorer from a weight file (weights only, never code). activation: "auto" goes by config.json beside weights in
    transformers' format, and by the names under which weights are published. Raises UnknownScorer."""
    return from_weights(weight_files.read(path, UnknownScorer, CURE), path, activation)


def from_weights(state: dict[str, Tensor], path: Path, activation: str = "auto") -> OpenClipScorer:
    """As `load`, from what was read. path: of the file, for its name and what is beside it."""
    foreign = transformers_clip.is_transformers(state)
    if foreign:
        state = renamed(state, path.name)
    name = architecture(state, path.name)
    quick = activation == "quick gelu" or (activation == "auto" and _auto_quick_gelu(state, path, name, foreign))
    # The class itself, for open_clip's own factory logs that a model without its weights is random.
    open_clip = library()
    model = open_clip.CLIP(**{**open_clip.get_model_config(name), "quick_gelu": quick})
    logger.info("Load Scorer: %s is %s with %s.", path.name, name, "quick gelu" if quick else "gelu")
    kept = {key: value for key, value in state.items() if key in model.state_dict()}
    missing = set(model.state_dict()) - set(kept) - {"attn_mask"}
    if missing:
        raise UnknownScorer(f"{path.name} looks like {name}, but lacks {len(missing)} weights, {min(missing)} first.")
    try:
        model.load_state_dict(kept, strict=False)
    except RuntimeError as why:  # sizes that are another model's, such as a longer context
        said = str(why).splitlines()[-1].strip()
        raise UnknownScorer(f"{path.name} looks like {name}, but is another model: {said}") from None
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    title = f"{path.stem} ({name}, {'quick gelu' if quick else 'gelu'})"
    tokenizer = open_clip.get_tokenizer(name)
    return OpenClipScorer(title, size, model.context_length, patched(model), tokenizer, is_hps_v2(str(path)), quick)


def renamed(state: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """A CLIP in transformers' format under open_clip's names."""
    lacks = [tower for tower in transformers_clip.TOWERS if not any(key.startswith(tower) for key in state)]
    if lacks:
        raise UnknownScorer(
            f"{file} is one tower of a CLIP without the other ({lacks[0]}*). Take the whole model's file; what Load "
            "CLIP Vision and Load CLIP take goes into Scorer from CLIP."
        )
    try:
        return transformers_clip.to_open_clip(state)
    except KeyError as why:
        raise UnknownScorer(f"{file} is a CLIP in transformers' format, but lacks {why}. Download it again.") from None


def architecture(state: dict[str, Tensor], file: str) -> str:
    """open_clip's name for a state dict."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        tokens = state["visual.positional_embedding"].shape[0] - 1
        layers = len({key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")})
        text = state["token_embedding.weight"].shape[1]
    except (KeyError, ValueError) as why:
        raise UnknownScorer(
            f"{file} is no CLIP in open_clip's or transformers' format (no {why}). Known: "
            f"{', '.join(ARCHITECTURES.values())}; HPS v2 and v2.1 and PickScore, which are ViT-H-14; heads of "
            "aesthetic predictors."
        ) from None
    shape = Shape(width, layers, patch, round(tokens**0.5), text)
    if shape not in ARCHITECTURES:
        raise UnknownScorer(f"{file} has an unknown shape, {shape}. Known: {', '.join(ARCHITECTURES.values())}.")
    return ARCHITECTURES[shape]


def is_hps_v2(file: str) -> bool:
    """Whether weights are by their name those of HPS v2 or v2.1, whose own program looks at whole pictures in black
    squares. That of v1 (hpc.pth) crops a square, as CLIP does."""
    name = telling_name(file)
    return "hps" in name and not HPS_V1.search(name)


def telling_name(file: str) -> str:
    """What says which weights a file has, in lower case: its name without the ending, or its folder's where all files
    are called the same."""
    path = Path(file.lower())
    return path.parent.name if path.stem in NAMELESS and path.parent.name else path.stem


def _auto_quick_gelu(state: dict[str, Tensor], path: Path, name: str, foreign: bool) -> bool:
    """Which activation a file wants that is `name`. foreign: in transformers' format."""
    named = f"{path.parent.name}/{path.name}"
    if not foreign:
        return wants_quick_gelu(state, named)
    shape = next(shape for shape, each in ARCHITECTURES.items() if each == name)
    told = transformers_clip.quick_gelu_of_config(path, shape.width, shape.layers)
    if told is not None:
        return told
    return wants_quick_gelu(state, named, transformers_clip.published_with_quick_gelu(named, name))


def wants_quick_gelu(state: dict[str, Tensor], file: str, otherwise: bool = False) -> bool:
    """Whether weights were trained with OpenAI's activation: by the name under which they are published, else whether
    they look like OpenAI's, MetaCLIP's or DFN's, or like HPS v1, trained on from OpenAI's. file: its name, or with its
    folder's, which counts where all files are called the same. otherwise: for what looks like none."""
    name, published = telling_name(file), _published()
    if name in published:
        return published[name]
    hints = ("openai", "hpc", "hps_v1", "metaclip", "dfn", "quickgelu", "quick_gelu")
    return otherwise or "input_resolution" in state or any(hint in name for hint in hints)


@lru_cache(maxsize=1)
def _published() -> dict[str, bool]:
    """Names of open_clip's published files and repositories -> whether they want quick gelu; without doubtful ones."""
    quick_gelu: dict[str, bool] = {}
    doubtful: set[str] = set()
    open_clip = library()
    for model, tag in open_clip.list_pretrained():
        about = open_clip.get_pretrained_cfg(model, tag)
        quick = bool(about.get("quick_gelu", False))
        repository, _, hub_file = about.get("hf_hub", "").rpartition("/")
        for name in {Path(about.get("url", "")).stem, repository.rpartition("/")[2], Path(hub_file).stem} - {""}:
            if quick_gelu.setdefault(name.lower(), quick) != quick:
                doubtful.add(name.lower())
    return {name: quick for name, quick in quick_gelu.items() if name not in doubtful | NAMELESS}
