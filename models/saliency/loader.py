"""Saliency models from local weight files, as ComfyUI's memory management wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from .. import weight_files
from ..scorers.comfy_clip import patched
from .transalnet import TranSalNet, kind_of
from .unisal import Unisal, is_unisal


class UnknownSaliencyModel(ValueError):
    """A file that is no saliency model we know; the text says what is expected."""


@dataclass(frozen=True, eq=False)
class SaliencyModel:
    """A network that says where people look."""

    name: str
    patcher: Any = field(repr=False)

    def __call__(self, pictures: Tensor) -> Tensor:
        """As `maps`; the network is loaded first."""
        mm.load_models_gpu([self.patcher])
        return self.maps(pictures)

    def maps(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, height, width] in 0..1 -> maps [n, height, width] in 0..1, on the same device."""
        device = self.patcher.load_device
        with torch.no_grad():
            maps = [self.patcher.model.saliency(picture[None].float().to(device)) for picture in pictures]
        return torch.cat(maps).to(pictures.device)


def load(path: Path) -> SaliencyModel:
    """TranSalNet_Res, TranSalNet_Dense or UNISAL as published (weights only). Raises UnknownSaliencyModel."""
    state = weight_files.read(path, UnknownSaliencyModel, "It may be damaged: download it again.")
    kind = kind_of(state)
    if kind is None and not is_unisal(state):
        raise UnknownSaliencyModel(
            f"{path.name} is no saliency model that is known here. Known are TranSalNet_Res.pth, TranSalNet_Dense.pth "
            "and UNISAL's weights_best.pth as their authors publish them."
        )
    network = Unisal() if kind is None else TranSalNet(kind)
    name = "UNISAL" if kind is None else f"TranSalNet_{kind.title()}"
    ours = network.state_dict()
    try:
        # UNISAL's file also has what videos need.
        network.load_state_dict(state if kind else {key: value for key, value in state.items() if key in ours})
    except RuntimeError as why:
        raise UnknownSaliencyModel(f"{path.name} is an incomplete {name}: {why}") from None
    return SaliencyModel(path.stem, patched(network.float()))
