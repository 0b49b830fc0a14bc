"""What the results page says first: a line per study, the bad news included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .tables import interval, paragraphs, percent

PAINTED, HOOKS = "painted start, dense diffusion", "ComfyUI's masked hooks"


def model(facts: dict[str, Any]) -> str:
    table = facts["generator"]["table"]
    shares = ", ".join(f"{percent(*table[count]['all_right'])} with {count}" for count in "123")
    return f"**The demo model** draws every object of a prompt right in {shares}."


def places(facts: dict[str, Any]) -> str:
    table = facts["regions_start"]["table"]
    return (
        f"**Regions** ({facts['regions_start']['layouts']} layouts): objects stand in their region in "
        f"{percent(*table['none']['there'])} without regions, {percent(*table['dense diffusion']['there'])} with Dense "
        f"Diffusion, {percent(*table[PAINTED]['there'])} with Region Start too, at "
        f"{table[PAINTED]['time']:.2f} times the time. There, where no caption named a place, the starting noise "
        "decides places more than attention does."
    )


def transformer(facts: dict[str, Any]) -> str:
    report, steered = facts["regions_start_dit"], "dense diffusion"
    return (
        f"**On the flow transformer**, which captions with places trained, Dense Diffusion alone has "
        f"{percent(*report['table'][steered]['there'])} of the objects in place ({report['layouts']} layouts; "
        f"{percent(*report['table']['none']['there'])} without regions, "
        f"{percent(*report['table'][f'{steered}, arranged noise']['there'])} with arranged noise too)."
    )


def twins(facts: dict[str, Any]) -> str:
    table = facts["regions_identities"]["table"]
    return (
        "**Two of one kind**: a color shows on the wrong side in "
        f"{percent(*table['none']['leak'])} without regions, {percent(*table[PAINTED]['leak'])} with Dense Diffusion "
        "and Region Start."
    )


def loras(facts: dict[str, Any]) -> str:
    both = {row["name"]: row["both"] for row in facts["region_lora"]["rows"]}
    return (
        f"**A LoRA per region**: each half has its own style in {percent(*both['Region LoRA'])} (the goal was 80 %), "
        f"with ComfyUI's masked hooks in {percent(*both[HOOKS])}."
    )


def noise(facts: dict[str, Any]) -> str:
    found = facts["latents"]
    table, count = found["table"], found["trials"]["best of n"]
    names = ("best of n", "past the model, whole", "DOODL", "SGOOL, crops")
    shares = ", ".join(f"{name} {interval(table[name]['clip_b'], 100)}" for name in names if name in table)
    return (
        f"**The best starting noise** ({found['prompts']} prompts, the time of {count} pictures, cosine to the prompt "
        f"by a CLIP that nothing optimizes): one picture {interval(table['none']['clip_b'], 100)}, {shares}."
    )


def sag(facts: dict[str, Any]) -> str:
    found = [row["kid_against_none"] for kind in ("sag_without", "sag") for row in facts[kind]["table"]
             if row["method"] == "SAG"]  # fmt: skip
    without, prompted = map(interval, found)
    is_chance = all(low <= 0 <= high for _, low, high in found)
    return (
        "**Self-Attention Guidance** changes the distance to reference pictures (KID, lower is better) by "
        f"{without} without a prompt and {prompted} with one"
        f"{': nothing beyond chance on this model' if is_chance else ''}."
    )


LINES: list[tuple[set[str], Callable[[dict[str, Any]], str]]] = [  # with what each needs
    ({"generator"}, model), ({"regions_start"}, places), ({"regions_start_dit"}, transformer),
    ({"regions_identities"}, twins), ({"region_lora"}, loras), ({"latents"}, noise), ({"sag", "sag_without"}, sag),
]  # fmt: skip


def section(facts: dict[str, Any]) -> str:
    """A line for whatever was measured; "" where nothing was."""
    lines = [f"- {write(facts)}" for needed, write in LINES if needed <= facts.keys()]
    return paragraphs("## In short", "\n".join(lines)) if lines else ""
