"""The node that weights a model's text encoders by noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..guidance.encoder_schedule import curves as schedule
from .ui import charts, errors

if TYPE_CHECKING:
    from comfy.sd import CLIP

NAME = "Encoder Schedule"
CUSTOM = "custom"


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
            search_aliases=["eDiff-I", "T5", "CLIP T5", "two prompts", "dual prompt", "encoder weight", "text encoder",
                            "SD3 prompt", "Flux prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="Two or more text encoders, as loaders for SD3, Flux or SDXL give them."),
                io.String.Input("prompt", multiline=True, default="", dynamic_prompts=True,
                                tooltip="The prompt for all encoders that have none of their own below."),
                io.String.Input("clip_prompt", multiline=True, default="", dynamic_prompts=True,
                                tooltip="The prompt for the CLIP encoders. Empty: prompt."),
                io.String.Input("t5_prompt", multiline=True, default="", dynamic_prompts=True,
                                tooltip="The prompt for T5 or another language model; for SDXL, which has none, that "
                                "of CLIP-G. Empty: prompt."),
                io.Combo.Input("curves", options=[*schedule.PRESETS, CUSTOM], default="eDiff-I",
                               tooltip="eDiff-I: CLIP fades after 30 %, T5 stays. T5 first: T5 stays, CLIP rises over "
                               "the first 70 %. custom: clip_curve and t5_curve."),
                io.String.Input("clip_curve", default="0:1, 0.3:1, 1:0",
                                tooltip="Weight of CLIP, for custom: points place:weight. Place 0 is the first "
                                "step, 1 the last. Weight 0 is an empty prompt, 1 the prompt."),
                io.String.Input("t5_curve", default="1",
                                tooltip="Weight of T5, likewise. A single number is constant."),
                io.Int.Input("segments", default=16, min=1, max=256, advanced=True,
                             tooltip="Into how many segments of constant weights the schedule is cut."),
                io.Float.Input("guidance", default=3.5, min=0.0, max=100.0, step=0.1, advanced=True,
                               tooltip="Flux's built-in guidance. Other models do not get it."),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                               tooltip="Where in the schedule this prompt begins. Use it in place of "
                               "ConditioningSetTimestepRange, which would make all segments act in every step."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                               tooltip="Where in the schedule this prompt ends."),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="For any sampler."),
                io.Image.Output(display_name="chart", tooltip="Both weights over the schedule: first CLIP, then T5."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls, clip: CLIP, prompt: str, clip_prompt: str, t5_prompt: str, curves: str, clip_curve: str, t5_curve: str,
        segments: int, guidance: float, start_percent: float = 0.0, end_percent: float = 1.0,
    ) -> io.NodeOutput:  # fmt: skip
        errors.needs_clip(clip)
        given = schedule.PRESETS.get(curves, (clip_curve, t5_curve))
        lines = [schedule.parse_curve(line, name)
                 for line, name in zip(given, ("clip_curve", "t5_curve"))]  # fmt: skip
        prompts = [own if own.strip() else prompt for own in (clip_prompt, t5_prompt)]
        steady = [all(weight == 1 for _, weight in line) for line in lines]
        whole, without = _encoded(clip, prompts, steady, guidance)
        if start_percent >= end_percent:
            raise ValueError(
                f"end_percent ({end_percent:g}) has to be above start_percent ({start_percent:g})."
            )
        ranges = schedule.pieces(lines, segments, start_percent, end_percent)
        made = []
        for start, end, weights in ranges:
            features, more = schedule.weighed_entry(whole, without, weights)
            # No limit at the ends of the schedule: a flow's first level may be a little above percent 0.
            window = {"start_percent": start} if start > 0 else {}
            made.append([features, {**more, **window, **({"end_percent": end} if end < 1 else {})}])
        percents = torch.linspace(0, 1, 101).tolist()
        chart = charts.curves([[schedule.weight_at(line, percent) for percent in percents] for line in lines],
                              "weights: CLIP, T5", "percent of the schedule")[None]  # fmt: skip
        return io.NodeOutput(made, chart)


def _encoded(clip: CLIP, prompts: list[str], steady: list[bool], guidance: float) -> tuple[Any, list[Any]]:
    """The conditioning with both prompts, and once each with one group of encoders given nothing. steady: groups whose
    weight is always 1, for which nothing has to be encoded."""
    tokens = [clip.tokenize(prompt) for prompt in prompts]
    empty = clip.tokenize("")
    names = list(tokens[0])
    groups = [[name for name in names if name in schedule.CLIP_ENCODERS],
              [name for name in names if name not in schedule.CLIP_ENCODERS]]  # fmt: skip
    if not groups[1] and set(groups[0]) >= {"l", "g"}:  # SDXL: two CLIPs; G is the one that reads more
        groups = [[name for name in names if name == "l"], [name for name in names if name != "l"]]
    if not all(groups):
        raise ValueError(
            f"this CLIP has one kind of text encoder only ({', '.join(names)}). Use a loader that gives two, "
            "such as Load CLIP (Dual) or Load CLIP (Triple) for SD3 and Flux; for other models, CLIP Text Encode."
        )
    mine = {name: group for group, own in enumerate(groups) for name in own}
    # CLIP-L and CLIP-G lie side by side: as many chunks each, in every encoding, or tokens would be mixed up.
    chunks = max((len(tokens[mine[name]][name]) for name in ("l", "g") if name in mine), default=0)
    beside = {"guidance": guidance} if set(names) == schedule.GUIDED else {}

    def encode(absent: int | None) -> tuple[Any, dict]:
        mixed = {name: (empty if mine[name] == absent else tokens[mine[name]])[name] for name in names}
        for name in {"l", "g"} & set(mine):
            mixed[name] = [*mixed[name], *empty[name] * (chunks - len(mixed[name]))]
        made = clip.encode_from_tokens_scheduled(mixed, add_dict=beside)
        if len(made) != 1:
            raise ValueError("this CLIP has LoRA hooks on a schedule of their own. Remove them.")
        return made[0][0], made[0][1]

    whole, without = encode(None), []
    for group, prompt in enumerate(prompts):
        # Beside an encoder whose weight changes, the other has to be there, or nothing would be left of the prompt.
        needed = not all(steady) and prompt.strip() != ""
        nothing = encode(group) if needed or not steady[group] else whole
        without.append(whole if steady[group] else nothing)
        if needed and _same(whole, nothing):
            raise ValueError(
                f"the encoder {' and '.join(groups[group])} is not there, so it has no weight. Load it with "
                "this CLIP, or choose curves both: beside one that fades, nothing would be left of the prompt."
            )
    return whole, without


def _same(a: tuple[Any, dict], b: tuple[Any, dict]) -> bool:
    """Whether two conditionings are one."""
    pairs = [(a[0], b[0]), *((value, b[1].get(key)) for key, value in a[1].items())]
    return all(torch.equal(x, y) for x, y in pairs if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor))


NODES = [FoveaEncoderSchedule]
