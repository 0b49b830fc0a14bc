"""Where people look: loading saliency models, and their maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..guidance.spectral_residual import spectral_residual
from ..models import model_folders, weight_files
from ..models.saliency import loader
from .ui import errors, heat_maps

FOLDER = model_folders.register("saliency")
LOADER = "Load Saliency Model"
WITHOUT_WEIGHTS = "spectral residual (no weights)"
SaliencyType = io.Custom("FOVEA_SALIENCY")
ALIASES = ["saliency", "attention of people", "TranSalNet", "where people look", "eye tracking"]


def names() -> list[str]:
    """What can be chosen: the folder's files without those that come along with weights."""
    files = folder_paths.get_filename_list(FOLDER)
    return [WITHOUT_WEIGHTS, *(name for name in files if weight_files.is_weights(Path(name)))]


class FoveaLoadSaliencyModel(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaLoadSaliencyModel",
            display_name=LOADER,
            category="Fovea/scoring",
            description=(
                "Loads a model that says where people look in a picture, from the folder models/saliency: TranSalNet "
                "or UNISAL, as their authors publish them. Or the spectral residual, which needs no file."
            ),
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "file", options=names(),
                    tooltip="TranSalNet_Res.pth, TranSalNet_Dense.pth or UNISAL's weights_best.pth in models/saliency. "
                    "Or the spectral residual, which finds what stands out and needs no weights.",
                )
            ],
            outputs=[
                SaliencyType.Output(display_name="saliency_model", tooltip="For Saliency Map and Optimize Latent.")
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(LOADER)
    def execute(cls, file: str) -> io.NodeOutput:
        if file == WITHOUT_WEIGHTS:
            return io.NodeOutput(spectral_residual)
        with torch.inference_mode(False):
            return io.NodeOutput(loader.load(Path(folder_paths.get_full_path_or_raise(FOLDER, file))))


class FoveaSaliencyMap(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaSaliencyMap",
            display_name="Saliency Map",
            category="Fovea/scoring",
            description="Where people look in a picture, as a mask and as a heat map over the picture.",
            search_aliases=ALIASES,
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="Pictures of any size, each looked at by itself."),
                io.Float.Input(
                    "opacity", default=0.65, min=0.0, max=1.0, step=0.05,
                    tooltip="How much the heat map covers the picture in the overlay.",
                ),
                io.Boolean.Input(
                    "normalize", default=True,
                    tooltip="Stretch every map from 0 to 1. Off: as the model gives it.",
                ),
                SaliencyType.Input(
                    "saliency_model", optional=True,
                    tooltip="From Load Saliency Model. Without one: the spectral residual.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One map per picture, white where people look."),
                io.Image.Output(display_name="overlay", tooltip="The maps as colors over the pictures."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Saliency Map")
    def execute(
        cls, image: Tensor, opacity: float, normalize: bool, saliency_model: Callable[[Tensor], Tensor] | None = None
    ) -> io.NodeOutput:
        pictures = image[..., :3].movedim(-1, 1)
        pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        finite = torch.isfinite(pictures).flatten(1).all(dim=1)[:, None, None]
        pictures = torch.where(finite[:, None], pictures, torch.zeros_like(pictures))
        maps = (saliency_model or spectral_residual)(pictures)
        maps = torch.where(finite, maps, torch.zeros_like(maps))  # a picture of NaN has no salient place
        maps = heat_maps.spread(maps) if normalize else maps.clamp(0, 1)
        seen = [heat_maps.overlay(one, picture, opacity) for one, picture in zip(maps, pictures.movedim(1, -1))]
        overlay = torch.stack(seen)
        return io.NodeOutput(maps, overlay, ui=ui.PreviewImage(overlay, cls=cls))


NODES = [FoveaLoadSaliencyModel, FoveaSaliencyMap]
