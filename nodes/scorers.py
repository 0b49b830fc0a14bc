"""What says how well a picture fits a text: loading scorers, and scoring pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..guidance.noise_optimization.losses import picture_score
from ..models import model_folders
from ..models.scorers import comfy_clip, imscore, open_clip
from ..models.scorers.scorer import Scorer
from ..models.shapesworld import loader as demo_model
from .ui import charts, notices

FOLDER = model_folders.register("scorers")
CLIP_A = "ShapesWorld CLIP A (ships with Fovea)"
ScorerType = io.Custom("FOVEA_SCORER")
LOADER, SCORE = "Load Scorer", "Score Images"
BROKEN = "  (holds NaN or infinity: a VAE in half precision? try --fp32-vae)"
ALIASES = ["CLIP score", "HPS", "open_clip"]


def truncated_tokens(scorer: Scorer, text: str) -> list[str]:
    """A line if the scorer reads only a part of the text."""
    count = scorer.truncated_tokens(text)
    return [f"The scorer does not read the last {count} tokens of the text."] if count else []


def prompt_lines(scorer: Scorer, prompt: str) -> list[str]:
    """What to say of a prompt that pictures are compared with."""
    empty = "prompt is empty: the pictures were compared with nothing. Say what they show."
    return [*([] if prompt.strip() else [empty]), *truncated_tokens(scorer, prompt)]


class FoveaLoadScorer(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaLoadScorer",
            display_name=LOADER,
            category="Fovea/scoring",
            description=(
                "Loads a CLIP that tells how well a picture fits a text, from the folder models/scorers: open_clip's "
                "ViT-B/32 to bigG, HPS v2 and v2.1. Or ShapesWorld's own, which ships with Fovea."
            ),
            search_aliases=[*ALIASES, "HPSv2", "PickScore", "ImageReward", "aesthetic predictor"],
            inputs=[
                io.Combo.Input(
                    "file", options=[CLIP_A, *folder_paths.get_filename_list(FOLDER), *imscore.names()],
                    tooltip="A weight file in open_clip's format in models/scorers, or the demo model's scorer, which "
                    "knows ShapesWorld's words and pictures only. With the package imscore installed also PickScore, "
                    "ImageReward and others.",
                ),
                io.Combo.Input(
                    "activation", options=list(open_clip.ACTIVATIONS), default="auto", advanced=True,
                    tooltip="OpenAI's own weights and those trained on from them need quick gelu. auto goes by the "
                    "file's name.",
                ),
                io.Boolean.Input(
                    "allow_download", default=False, optional=True, advanced=True,
                    tooltip="imscore's scorers only: fetch weights that are not in this machine's hub cache.",
                ),
            ],
            outputs=[ScorerType.Output(display_name="scorer", tooltip="For Optimize Latent, Best of N, Score Images.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, file: str, activation: str, allow_download: bool = False) -> io.NodeOutput:
        with torch.inference_mode(False):
            if file.startswith(imscore.PREFIX):
                return io.NodeOutput(imscore.load(file, allow_download))
            if file == CLIP_A:
                return io.NodeOutput(demo_model.load_scorer())
            return io.NodeOutput(open_clip.load(Path(folder_paths.get_full_path_or_raise(FOLDER, file)), activation))


class FoveaScorerFromCLIP(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaScorerFromCLIP",
            display_name="Scorer from CLIP",
            category="Fovea/scoring",
            description=(
                "Makes a scorer of what is loaded already: SDXL's CLIP with clip_vision_g, or SD2's with clip_vision_h."
            ),
            search_aliases=[*ALIASES, "CLIP_VISION"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="From Load CLIP Vision: bigG for SDXL's CLIP, H for SD2's."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP. Its text tower has to be the picture tower's."),
            ],
            outputs=[ScorerType.Output(display_name="scorer", tooltip="For Optimize Latent, Best of N, Score Images.")],
        )

    @classmethod
    def execute(cls, clip_vision: Any, clip: Any) -> io.NodeOutput:
        with torch.inference_mode(False):
            return io.NodeOutput(comfy_clip.clip_pair(clip_vision, clip))


class FoveaScoreImages(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaScoreImages",
            display_name=SCORE,
            category="Fovea/scoring",
            description="How well pictures fit a prompt: sorted, in words and as a chart.",
            search_aliases=[*ALIASES, "rank images", "aesthetic score"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="Pictures of one batch, of any size."),
                ScorerType.Input("scorer", tooltip="From Load Scorer."),
                io.String.Input("prompt", multiline=True, default="", tooltip="What the pictures shall show."),
            ],
            outputs=[
                io.Image.Output(display_name="sorted", tooltip="The pictures, best first."),
                io.Image.Output(display_name="chart", tooltip="A bar per picture, and the box of all."),
                io.String.Output(display_name="report", tooltip="Scores, best first; of a CLIP cosines times 100."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, scorer: Scorer, prompt: str) -> io.NodeOutput:
        pictures = image[..., :3].movedim(-1, 1).float()
        pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        with torch.no_grad():
            target = scorer.target(prompt)  # first: what encodes it may take the other's place
            mm.load_models_gpu([scorer.patcher])
            values = [float(picture_score(scorer, picture, target)) for picture in pictures]
        broken = [not bool(torch.isfinite(picture).all()) for picture in pictures]
        order = sorted(range(len(values)), key=lambda i: (broken[i] or math.isnan(values[i]), -values[i]))
        told = [f"{values[i]:.2f}  picture {i + 1}" + BROKEN * broken[i] for i in order]
        chart = charts.bars([values[i] for i in order], [str(i + 1) for i in order], f"{scorer.unit}: {prompt[:60]}")
        notices.report(SCORE, [*truncated_tokens(scorer, prompt), *(line for line in told if line.endswith(BROKEN))])
        report = "\n".join([*truncated_tokens(scorer, prompt), *told])
        return io.NodeOutput(image[order], chart[None], report, ui=ui.PreviewImage(chart[None], cls=cls))


NODES: list[Any] = [FoveaLoadScorer, FoveaScorerFromCLIP, FoveaScoreImages]
