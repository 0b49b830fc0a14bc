"""The node that weights a model's text encoders by noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..guidance import charts
from ..guidance import encoder_schedule as schedule

if TYPE_CHECKING:
    from comfy.sd import CLIP

NAME = "Encoder Schedule"
CUSTOM = "curves below"


class FoveaEncoderSchedule(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaEncoderSchedule",
            display_name=NAME,
            category="Fovea/experts",
            description=(
                "CLIP and T5 weighted by noise level, each with its own prompt: CLIP for the overall look early, T5 "
                "for the details to the end (eDiff-I). For models with several text encoders: SD3, Flux, SDXL, "
                "HiDream. One conditioning per step, as ever."
            ),
            search_aliases=["eDiff-I", "T5", "CLIP T5", "dual prompt", "encoder weight", "text encoder", "SD3 prompt",
                            "Flux prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="Two or more text encoders, as loaders for SD3, Flux or SDXL give them."),
                io.String.Input("text", multiline=True, default="", dynamic_prompts=True,
                                tooltip="The prompt for all encoders that have none of their own below."),
                io.String.Input("clip_text", multiline=True, default="", dynamic_prompts=True,
                                tooltip="The prompt for the CLIP encoders. Empty: text."),
                io.String.Input("t5_text", multiline=True, default="", dynamic_prompts=True,
                                tooltip="The prompt for T5 or another language model; for SDXL, which has none, that "
                                "of CLIP-G. Empty: text."),
                io.Combo.Input("curves", options=[*schedule.PRESETS, CUSTOM], default="eDiff-I",
                               tooltip="How the weights go over the schedule."),
                io.String.Input("clip_curve", default="0:1, 0.3:1, 1:0",
                                tooltip="Weight of CLIP, for curves below: percent:weight points, 0 is the first step. "
                                "0 is an empty prompt, 1 the prompt."),
                io.String.Input("t5_curve", default="1",
                                tooltip="Weight of T5, likewise. A single number is constant."),
                io.Int.Input("parts", default=16, min=1, max=256, advanced=True,
                             tooltip="Into how many parts of constant weights the schedule is cut."),
                io.Float.Input("guidance", default=3.5, min=0.0, max=100.0, step=0.1, advanced=True,
                               tooltip="The built-in guidance of models that have one (Flux). Others ignore it."),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="For any sampler."),
                io.Image.Output(display_name="chart", tooltip="Both weights over the schedule: first CLIP, then T5."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, clip: CLIP, text: str, clip_text: str, t5_text: str, curves: str, clip_curve: str, t5_curve: str,
        parts: int, guidance: float,
    ) -> io.NodeOutput:  # fmt: skip
        given = schedule.PRESETS.get(curves, (clip_curve, t5_curve))
        lines = [schedule.parse_curve(line, f"{NAME}: {name}")
                 for line, name in zip(given, ("clip_curve", "t5_curve"))]  # fmt: skip
        prompts = [own if own.strip() else text for own in (clip_text, t5_text)]
        whole, without = _encoded(clip, prompts, guidance)
        ranges = schedule.pieces(lines, parts)
        made = []
        for start, end, weights in ranges:
            features, more = schedule.weighed_entry(whole, without, weights)
            window = {} if len(ranges) == 1 else {"start_percent": start, "end_percent": end}
            made.append([features, {**more, **window}])
        percents = torch.linspace(0, 1, 101).tolist()
        chart = charts.curves([[schedule.weight_at(line, percent) for percent in percents] for line in lines],
                              "weights: CLIP, T5", "percent of the schedule")[None]  # fmt: skip
        return io.NodeOutput(made, chart)


def _encoded(clip: CLIP, prompts: list[str], guidance: float) -> tuple[Any, list[Any]]:
    """The conditioning with both prompts, and once each with one group of encoders given nothing."""
    tokens = [clip.tokenize(prompt) for prompt in prompts]
    empty = clip.tokenize("")
    names = list(tokens[0])
    groups = [[name for name in names if name in schedule.CLIP_ENCODERS],
              [name for name in names if name not in schedule.CLIP_ENCODERS]]  # fmt: skip
    if not groups[1] and set(groups[0]) >= {"l", "g"}:  # SDXL: two CLIPs; G is the one that reads more
        groups = [[name for name in names if name == "l"], [name for name in names if name != "l"]]
    if not all(groups):
        raise ValueError(
            f"{NAME}: this CLIP has one kind of text encoder only ({', '.join(names)}). Use a loader that gives two, "
            "such as DualCLIPLoader or TripleCLIPLoader for SD3 and Flux; for other models, CLIP Text Encode."
        )

    def encode(absent: int | None) -> tuple[Any, dict]:
        mixed = {name: (empty if group == absent else tokens[group])[name]
                 for group, own in enumerate(groups) for name in own}  # fmt: skip
        _even(mixed, empty)
        ((features, more),) = clip.encode_from_tokens_scheduled(
            {name: mixed[name] for name in names}, add_dict={"guidance": guidance}
        )
        return features, more

    return encode(None), [encode(group) for group in range(len(groups))]


def _even(tokens: dict[str, list], empty: dict[str, list]) -> None:
    """CLIP-L and CLIP-G side by side need as many chunks each: empty ones are added, as the host does."""
    if "l" in tokens and "g" in tokens:
        longest = max(len(tokens["l"]), len(tokens["g"]))
        for name in ("l", "g"):
            tokens[name] = [*tokens[name], *empty[name] * (longest - len(tokens[name]))]


NODES = [FoveaEncoderSchedule]
