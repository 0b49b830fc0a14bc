"""The results page's section on attention maps."""

from __future__ import annotations

from ..tables import paragraphs, percent, table


def quality_section(unet: dict, dit: dict) -> str:
    """Where the attention of a phrase lies, in both demo models."""
    shown = [(each["table"], key) for each in (unet, dit) for key in ("area", "other", "hit")]
    rows = [
        (f"{100 * level:.0f} %", *(percent(*table_of[key][i]) for table_of, key in shown))
        for i, level in enumerate(unet["levels"])
    ]
    return paragraphs(
        "## Attention maps of a phrase on ShapesWorld",
        f"`python -m tools.studies.attention_map.quality`: {unet['scenes']} reference pictures of two objects and "
        f"more, {unet['phrases']} phrases; the mean map of the blocks that Attention Map reads by itself. Area: how "
        "often a place of the object has more of its phrase's attention than one outside of it (chance 50 %); at "
        "another: the same at the place of another object. Hit: the "
        "place with the most lies in the object (by chance "
        f"{100 * unet['table']['covered'][0][0]:.0f} %). In brackets: 95 % bootstrap interval over pictures.",
        table(
            ("steps done", *(f"{name}, {key}" for name in ("UNet", "flow transformer")
                             for key in ("area", "at another", "hit"))),
            rows,
        ),
    )  # fmt: skip
