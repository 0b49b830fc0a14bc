"""A node that shows what the guidance and region nodes work on: the model's own attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..attention.block_names import parse_blocks
from ..attention.families.registry import family_of
from ..guidance.attention_map.probe import Level, Look, look
from ..guidance.token_spans import phrase_tokens
from .ui import errors, heat_maps

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from torch import Tensor

NAME = "Attention Map"


class FoveaAttentionMap(io.ComfyNode):
    """Single evaluations, no sampling. Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaAttentionMap",
            display_name=NAME,
            category="Fovea/guidance",
            description=(
                "Shows where a model looks: the saliency and the mask that Self-Attention Guidance works with, where a "
                "phrase of the prompt is attended from, and what a point of the picture attends to, at several noise "
                "levels side by side. Costs one model evaluation per level, no sampling."
            ),
            search_aliases=["attention viewer", "cross attention heat map", "DAAM", "attention heat map"],
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.Image.Output(
                    display_name="maps", tooltip="One sheet per picture: a row per map, a column per level."
                ),
            ],
        )

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls,
        model: ModelPatcher,
        positive: list,
        latent: dict[str, Any],
        levels: str,
        seed: int,
        blocks: str,
        threshold: float,
        point: str,
        phrase: str,
        prompt: str,
        clip: CLIP | None = None,
        vae: VAE | None = None,
    ) -> io.NodeOutput:
        network = model.get_model_object("diffusion_model")
        family = family_of(network)
        if family is None:
            raise ValueError(f"the attention of the model ({type(model.model).__name__}) cannot be read yet.")
        wanted = Look(
            blocks=parse_blocks(blocks, family.blocks(network), family.default_blocks(network)),
            threshold=threshold,
            tokens=_tokens(clip, prompt, phrase, positive),
            point=_point(point),
        )
        percents = _levels(levels)
        bar = comfy.utils.ProgressBar(len(percents))
        seen = look(
            model, positive, latent, percents, seed, wanted, lambda done, total: bar.update_absolute(done, total)
        )
        sheets = torch.stack(_sheets(seen, vae, phrase))
        return io.NodeOutput(sheets, ui=ui.PreviewImage(sheets, cls=cls))


def _tokens(clip: CLIP | None, prompt: str, phrase: str, positive: list) -> tuple[int, ...]:
    if not phrase.strip():
        return ()
    if clip is None or not prompt.strip():
        raise ValueError(
            "to find a phrase, connect clip (of a checkpoint that has a text encoder) and give the prompt that "
            "positive was encoded from."
        )
    return phrase_tokens(clip, prompt, phrase.strip(), positive[0][0].shape[1])


def _levels(text: str) -> list[float]:
    """Numbers 0..1 separated by commas."""
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(0 <= v <= 1 for v in values):
        raise ValueError(
            f"levels must be numbers from 0 to 1 separated by commas, such as 0.1, 0.5, 0.9; got {text!r}."
        )
    return values


def _point(text: str) -> tuple[float, float] | None:
    """Two numbers 0..1, or nothing."""
    if not text.strip():
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"point must be empty or two numbers from 0 to 1, such as 0.5, 0.25; got {text!r}.")
    return x, y


def _sheets(seen: list[Level], vae: VAE | None, phrase: str) -> list[Tensor]:
    """A sheet per picture; frames of a video are pictures."""
    labels = {"saliency": "saliency", "mask": "SAG mask", "phrase": phrase.strip(), "point": "point"}
    maps = [{name: _frames(map_) for name, map_ in level.maps.items()} for level in seen]
    count = len(maps[0]["saliency"])
    pictures = [_decoded(level.x0, vae, count) for level in seen] if vae is not None else None
    height, width = (8 * n for n in seen[0].x0.shape[-2:]) if pictures is None else pictures[0].shape[1:3]
    columns = [f"{level.percent:g} (sigma {level.sigma:.3g})" for level in seen]
    sheets = []
    for i in range(count):
        rows: list[tuple[str, list[Tensor]]] = []
        if pictures is not None:
            rows.append(("estimate", [picture[i] for picture in pictures]))
        for name in maps[0]:
            tiles = heat_maps.enlarge(torch.stack([level[name][i] for level in maps]), (height, width))
            tiles = tiles if name == "mask" else heat_maps.spread(tiles)
            rows.append((labels[name], [
                heat_maps.colors(tile) if pictures is None else heat_maps.overlay(tile, pictures[j][i])
                for j, tile in enumerate(tiles)
            ]))  # fmt: skip
        sheets.append(heat_maps.sheet(rows, columns))
    return sheets


def _decoded(latent: Tensor, vae: VAE, count: int) -> Tensor:
    """`count` pictures [n, height, width, 3] of a latent; of a video, which decodes to more, evenly chosen frames."""
    pictures = vae.decode(latent)
    pictures = pictures.reshape(-1, *pictures.shape[-3:])[..., :3].cpu().float()
    return pictures[torch.linspace(0, len(pictures) - 1, count).round().long()]


def _frames(map_: Tensor) -> Tensor:
    """[batch, 1, (frames,) height, width] as [n, height, width]."""
    return map_.reshape(-1, *map_.shape[-2:])


def _inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="Whose attention to show, with whatever patches it has."),
        io.Conditioning.Input("positive", tooltip="The prompt it is evaluated with, without CFG."),
        io.Latent.Input(
            "latent",
            tooltip="The picture to look at; noise is added to it. Empty: what the model makes of noise.",
        ),
        io.String.Input(
            "levels", default="0.2, 0.5, 0.8",
            tooltip="Where in the schedule to look, like start_percent: 0 is the first, noisiest step, 1 the last.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=2**64 - 1, control_after_generate=False,
            tooltip="Of the noise, the same at all levels.",
        ),
        io.String.Input(
            "blocks", default="auto",
            tooltip="Whose self-attention to show: auto, or names as in Self-Attention Guidance, averaged. A phrase is "
            "shown over all blocks.",
        ),
        io.Float.Input(
            "threshold", default=1.0, min=0.0, max=4.0, step=0.01, tooltip="Of the SAG mask, relative to the mean."
        ),
        io.String.Input(
            "point", default="",
            tooltip="x, y as fractions from the left and the top, such as 0.5, 0.25: shows what this place attends to. "
            "Empty: not shown.",
        ),
        io.String.Input(
            "phrase", default="",
            tooltip="Words of the prompt: shows which places attend to them. Needs clip and prompt. Empty: not shown.",
        ),
        io.String.Input(
            "prompt", default="", multiline=True,
            tooltip="The prompt that positive was encoded from, to find the phrase in.",
        ),
        io.Clip.Input("clip", optional=True, tooltip="The text encoder that encoded positive; for a phrase."),
        io.Vae.Input("vae", optional=True, tooltip="Shows the model's estimate at each level, and the maps over it."),
    ]  # fmt: skip


NODES = [FoveaAttentionMap]
