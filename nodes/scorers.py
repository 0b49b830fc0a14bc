"""What says how well a picture fits a text: loading scorers, and scoring pictures."""

from __future__ import annotations

import math
from typing import Any

import comfy.model_management as mm
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..guidance.additional_models import patchers_of
from ..guidance.noise_optimization.losses import picture_score
from ..models.scorers import comfy_clip, files, imscore, open_clip, rating_node
from ..models.scorers.aesthetic import AestheticScorer
from ..models.scorers.scorer import Scorer
from ..models.shapesworld import loader as demo_model
from .ui import charts, errors, notices

SHAPESWORLD = "ShapesWorld CLIP (ships with Fovea)"
ScorerType = io.Custom("FOVEA_SCORER")
LOADER, SCORE = "Load Scorer", "Score Images"
FROM_CLIP, FROM_NODE = "Scorer from CLIP", "Scorer from Node"
BROKEN = "  (holds NaN or infinity: a VAE in half precision? try --fp32-vae)"
ALIASES = ["CLIP score", "HPS", "open_clip"]
USES = "For Best of N, Score Images, Optimize Latent, CLIP Guidance."


def truncated_tokens(scorer: Scorer, text: str) -> list[str]:
    """A line if the scorer reads only a part of the text."""
    count = scorer.truncated_tokens(text)
    return [f"The scorer does not read the last {count} tokens of the text."] if count else []


def prompt_lines(scorer: Scorer, prompt: str) -> list[str]:
    """What to say of a prompt that pictures are compared with."""
    if not scorer.reads_prompt:
        return ["The scorer looks at the pictures alone, not at the prompt."] if prompt.strip() else []
    empty = "prompt is empty: the pictures were compared with nothing. Say what they show."
    return [*([] if prompt.strip() else [empty]), *truncated_tokens(scorer, prompt)]


def score_text(value: float) -> str:
    """Two digits of scores on a scale of 100; four of small ones, since HPS tells pictures apart by thousandths."""
    return f"{value:.{4 if abs(value) < 10 else 2}f}"


class FoveaLoadScorer(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaLoadScorer",
            display_name=LOADER,
            category="Fovea/scoring",
            description=(
                "Loads what tells how well a picture fits a text, from the folder models/scorers: a CLIP (ViT-B/32 to "
                "bigG, PickScore, HPS v2 and v2.1), a model that sees and answers questions (VQAScore), or an "
                "aesthetic predictor. Or ShapesWorld's own, which ships with Fovea."
            ),
            search_aliases=[*ALIASES, "HPSv2", "PickScore", "ImageReward", "aesthetic predictor", "VQAScore"],
            inputs=[
                io.Combo.Input(
                    "file", options=[SHAPESWORLD, *files.names(), *imscore.names()],
                    tooltip="A CLIP's weight file in models/scorers, the head of an aesthetic predictor, the folder of "
                    "a model that answers questions, or the demo model's scorer, which knows ShapesWorld's words and "
                    "pictures only. With the package imscore installed also its scorers.",
                ),
                io.Combo.Input(
                    "activation", options=list(open_clip.ACTIVATIONS), default="auto", advanced=True,
                    tooltip="OpenAI's own weights and those trained on from them need quick gelu. auto goes by the "
                    "file's name, and by config.json beside a CLIP in transformers' format.",
                ),
                io.Boolean.Input(
                    "allow_download", default=False, optional=True, advanced=True,
                    tooltip="imscore's scorers only: fetch weights that are not in this machine's Hugging Face cache.",
                ),
                ScorerType.Input(
                    "clip_scorer", optional=True,
                    tooltip="Only for the head of an aesthetic predictor: the CLIP that it was trained on, from "
                    "another Load Scorer. LAION's want OpenAI's ViT-L/14.",
                ),
            ],
            outputs=[ScorerType.Output(display_name="scorer", tooltip=USES)],
        )  # fmt: skip

    @classmethod
    @errors.of_node(LOADER)
    def execute(
        cls, file: str, activation: str, allow_download: bool = False, clip_scorer: Scorer | None = None
    ) -> io.NodeOutput:
        with torch.inference_mode(False):
            if file.startswith(imscore.PREFIX):
                scorer: Scorer = imscore.load(file, allow_download)
            elif file == SHAPESWORLD:
                scorer = demo_model.load_scorer()
            else:
                scorer = files.load(file, activation, clip_scorer)
        if clip_scorer is not None and not isinstance(scorer, AestheticScorer):
            raise ValueError(
                f"{file} is no head of an aesthetic predictor, so nothing is done with what is connected to "
                "clip_scorer: disconnect it."
            )
        return io.NodeOutput(scorer)


class FoveaScorerFromCLIP(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaScorerFromCLIP",
            display_name=FROM_CLIP,
            category="Fovea/scoring",
            description=(
                "Makes a scorer of what is loaded already: SDXL's CLIP with clip_vision_g, or SD2's with clip_vision_h."
            ),
            search_aliases=[*ALIASES, "CLIP_VISION"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="From Load CLIP Vision: bigG for SDXL's CLIP, H for SD2's."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP. Its text tower has to be the picture tower's."),
            ],
            outputs=[ScorerType.Output(display_name="scorer", tooltip=USES)],
        )

    @classmethod
    @errors.of_node(FROM_CLIP)
    def execute(cls, clip_vision: Any, clip: Any) -> io.NodeOutput:
        errors.needs_clip(clip)
        with torch.inference_mode(False):
            return io.NodeOutput(comfy_clip.clip_pair(clip_vision, clip))


class FoveaScorerFromNode(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaScorerFromNode",
            display_name=FROM_NODE,
            category="Fovea/scoring",
            description=(
                "Makes a scorer of any other node that takes a picture and gives a number. Without gradient: Best of N "
                "and Score Images use it, and Optimize Latent for its candidates."
            ),
            search_aliases=[*ALIASES, "custom scorer", "reward"],
            inputs=[
                io.String.Input(
                    "node", default="",
                    tooltip='Class of the node: "Node name for S&R" in its properties, class_type in API workflows.',
                ),
                io.String.Input(
                    "values", default="{}", multiline=True,
                    tooltip="JSON of its inputs by name, for what should not have its default: "
                    '{"question": "Is this {prompt}?"}. {prompt} becomes the prompt.',
                ),
                io.Boolean.Input(
                    "lower_is_better", default=False, tooltip="Whether a good picture has a small number: a distance.",
                ),
                io.AnyType.Input(
                    "socket_a", optional=True, tooltip="For the first of its inputs without a default: a loaded model.",
                ),
                io.AnyType.Input("socket_b", optional=True, tooltip="For the second of its inputs without a default."),
            ],
            outputs=[
                ScorerType.Output(
                    display_name="scorer",
                    tooltip="For Best of N, Score Images, and the candidates of Optimize Latent.",
                )
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(FROM_NODE)
    def execute(
        cls, node: str, values: str, lower_is_better: bool, socket_a: Any = None, socket_b: Any = None
    ) -> io.NodeOutput:
        sockets = [each for each in (socket_a, socket_b) if each is not None]
        return io.NodeOutput(rating_node.load(node.strip(), values, lower_is_better, sockets))


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
                io.String.Input("prompt", multiline=True, default="", tooltip="What the pictures should show."),
            ],
            outputs=[
                io.Image.Output(display_name="sorted", tooltip="The pictures, best first."),
                io.Image.Output(display_name="chart", tooltip="A bar per picture, and the box of all."),
                io.String.Output(display_name="report", tooltip="Scores, best first; of a CLIP cosines times 100."),
            ],
        )

    @classmethod
    @errors.of_node(SCORE)
    def execute(cls, image: Tensor, scorer: Scorer, prompt: str) -> io.NodeOutput:
        pictures = image[..., :3].movedim(-1, 1).float()
        pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        with torch.no_grad():
            target = scorer.target(prompt)  # first: what encodes it may take the other's place
            mm.load_models_gpu(patchers_of(scorer))
            values = [float(picture_score(scorer, picture, target)) for picture in pictures]
        broken = [not bool(torch.isfinite(picture).all()) for picture in pictures]
        order = sorted(range(len(values)), key=lambda i: (broken[i] or math.isnan(values[i]), -values[i]))
        told = [f"{score_text(values[i])}  picture {i + 1}" + BROKEN * broken[i] for i in order]
        chart = charts.bars([values[i] for i in order], [str(i + 1) for i in order], f"{scorer.unit}: {prompt[:60]}")
        said = prompt_lines(scorer, prompt)
        notices.report(SCORE, [*said, *(line for line in told if line.endswith(BROKEN))])
        report = "\n".join([*said, *told])
        return io.NodeOutput(image[order], chart[None], report, ui=ui.PreviewImage(chart[None], cls=cls))


NODES: list[Any] = [FoveaLoadScorer, FoveaScorerFromCLIP, FoveaScorerFromNode, FoveaScoreImages]
