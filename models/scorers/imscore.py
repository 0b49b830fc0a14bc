"""Preference scorers of the optional package imscore (PickScore, HPS v2.1, ImageReward, MPS, CLIP score).

They rate a picture and a text in one go. Their weights come from a hub's cache on this machine; nothing is downloaded
unless asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .comfy_clip import patched
from .scorer import Scorer

PREFIX = "imscore: "


class Kind(NamedTuple):
    """module, cls: where the class is. repo: of its weights; needs: what else its constructor reads from the hub.
    weight: by which ReNO (arXiv 2406.04312) multiplies such a rating to use several as one loss. tokenizer: where the
    network has it; reads: how many tokens of a text count. letterbox: as scorers have it."""

    module: str
    cls: str
    repo: str
    needs: tuple[str, ...]
    weight: float
    tokenizer: str = "processor.tokenizer"
    reads: int = 77
    letterbox: bool = False


CLIP_H, BERT = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "bert-base-uncased"
CLIP_L = "openai/clip-vit-large-patch14"
KINDS = {
    "PickScore": Kind("pickscore", "PickScorer", "RE-N-Y/pickscore", (CLIP_H, "yuvalkirstain/PickScore_v1"), 0.05),
    "HPS v2.1": Kind("hps", "HPSv2", "RE-N-Y/hpsv21", (CLIP_H,), 5.0, "tokenizer", letterbox=True),
    "ImageReward": Kind("imreward", "ImageReward", "RE-N-Y/ImageReward", (BERT,), 1.0, "blip.tokenizer", 35),
    "MPS": Kind("mps", "MPS", "RE-N-Y/mpsv1", (CLIP_H,), 0.05, "tokenizer"),
    "CLIP score L/14": Kind("preference", "CLIPScore", "RE-N-Y/clipscore-vit-large-patch14", (CLIP_L,), 0.01),
}


class ImscoreMissing(RuntimeError):
    """The package or its weights are not there; the text says how to get them."""


@dataclass(frozen=True, eq=False)
class ImscoreScorer(Scorer):
    """Rates a picture and a text in one go. weight: what ratings are multiplied with to be a loss beside others."""

    name: str
    unit: str
    weight: float
    patcher: Any = field(repr=False)
    size: int = 224
    tokenizer: str = "processor.tokenizer"
    reads: int = 77
    letterbox: bool = False

    def rate(self, squares: Tensor, text: str) -> Tensor:
        """[n, 3, size, size] in 0..1 -> [n], higher is better, differentiable. The network is loaded by the caller."""
        squares = squares.to(self.patcher.load_device)
        return self.patcher.model.score(squares, [text] * len(squares)).reshape(-1)

    def truncated_tokens(self, prompt: str) -> int:
        """How many tokens of a text are beyond what the network reads, its begin and end included."""
        encode = attrgetter(self.tokenizer)(self.patcher.model).encode
        marks = 2 - len(encode(""))  # open_clip's tokenizer leaves begin and end out
        return max(0, len(encode(prompt)) + marks - self.reads)

    def target(self, prompt: str) -> str:
        return prompt

    def losses(self, squares: Tensor, target: str) -> Tensor:
        return -self.weight * self.rate(squares, target)

    def scores(self, losses: Tensor) -> Tensor:
        return -losses / self.weight


OLD_TRANSFORMERS = ("PickScore", "ImageReward", "MPS")  # imscore 0.0.11 uses in them what transformers 5 has not


def names() -> list[str]:
    """What the installed package offers, nothing without it."""
    if not importlib.util.find_spec("imscore"):
        return []
    new = int(importlib.metadata.version("transformers").split(".")[0]) >= 5
    return [PREFIX + name for name in KINDS if not (new and name in OLD_TRANSFORMERS)]


def load(name: str, allow_download: bool) -> ImscoreScorer:
    """A scorer by one of `names`. Raises ImscoreMissing."""
    name = name.removeprefix(PREFIX)
    kind = KINDS[name]
    missing = [] if allow_download else not_here(kind)
    if missing:
        raise ImscoreMissing(
            f"{name} needs {', '.join(missing)}, which is not in this machine's Hugging Face cache. {fetching(missing)}"
        )
    network_class = class_of(kind)
    try:
        with nullcontext() if allow_download else offline():
            network = network_class.from_pretrained(kind.repo, strict=True, local_files_only=not allow_download)
    except Exception as why:
        cure = "" if allow_download else f" If a file is missing: {fetching((kind.repo, *kind.needs))}"
        raise ImscoreMissing(f"imscore cannot load {name} ({type(why).__name__}: {str(why)[:200]}).{cure}") from why
    return wrap(name, network)


def fetching(repos: Sequence[str]) -> str:
    """How to get these repositories."""
    commands = "; ".join(f"hf download {repo}" for repo in repos)
    return f"Switch allow_download on, or fetch it by hand: {commands}."


OFFLINE = threading.Lock()


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is downloaded inside.

    imscore's constructors load further repositories, of which the cache may have a part, and pass nothing on that
    would say so; the environment is read once, when the hub's package is imported. So its setting is changed and put
    back: during the load, other downloads through that package are refused, too. One at a time, or the second would
    put back what the first had set.
    """
    from huggingface_hub import constants, utils

    # Before version 1, connections were kept that had been made by the setting as it was.
    forget = getattr(utils, "reset_sessions", lambda: None)
    with OFFLINE:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        forget()
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before
            forget()


def class_of(kind: Kind) -> Any:
    """Raises ImscoreMissing."""
    try:
        return getattr(importlib.import_module(f"imscore.{kind.module}.model"), kind.cls)
    except ImportError as why:
        raise ImscoreMissing(f"The package imscore cannot be used ({why}). Install it: pip install imscore.") from why


def not_here(kind: Kind, cache: Path | None = None) -> list[str]:
    """Which of a kind's repositories the hub's cache (this folder; else the hub's own) does not have."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        here = {repo.repo_id for repo in scan_cache_dir(cache).repos}
    except CacheNotFound:
        here = set()
    return [repo for repo in (kind.repo, *kind.needs) if repo not in here]


def wrap(name: str, network: torch.nn.Module) -> ImscoreScorer:
    """A network of imscore's as a scorer."""
    kind = KINDS[name]
    return ImscoreScorer(
        name, name, kind.weight, patched(network.float()), tokenizer=kind.tokenizer, reads=kind.reads,
        letterbox=kind.letterbox,
    )  # fmt: skip
