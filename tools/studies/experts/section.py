"""The results page's sections on experts."""

from __future__ import annotations

from ..tables import interval, paragraphs, percent, pictures_table, table
from .unlike import MEASURED

SAID = {
    "expert_high": "high noise (660 on)", "expert_low": "low noise (to 660)", "expert_control": "trained on",
    "expert_top": "highest noise (841 on)",
}  # fmt: skip


def losses(found: dict) -> str:
    """Per tenth of the timesteps, less the shipped model's."""
    edges = found["timesteps"]
    names = [key.removesuffix(" less base") for key in found if key.endswith(" less base")]
    rows = [
        (f"{low} to {high}", f"{1e4 * base:.1f}",
         *(interval(found[f"{name} less base"][i], 1e4) for name in names))
        for i, (low, high, base) in enumerate(zip(edges, edges[1:], found["base"]))
    ]  # fmt: skip
    head = ("timesteps", "shipped", *(f"{SAID[name]} less shipped" for name in names))
    return paragraphs(
        "### Loss of experts per noise level",
        f"Mean squared error of the v-prediction times 10,000 on {found['n']} held-out pictures, the same noise "
        "for all. Experts begin as the shipped model and see their half of the noise for 18 minutes (two cores; "
        "a level deeper 9 more); `trained on` sees all noise for the 36 minutes of both. The machine was not equally "
        "fast: half of what `trained on` saw, with high noise and with low, is more than either expert saw (samples in "
        "the training log below).",
        table(head, rows),
        "![Losses](images/ediffi_losses.png)",
    )


def experts(rows: list[dict]) -> str:
    return paragraphs(
        "### Pictures by experts",
        "`as LoRA`: the low-rank part of the experts' change, as it ships. All right: every object in its "
        "color and shape, by the reader.",
        pictures_table(rows, "base"),
    )


def unlike(found: dict) -> str:
    """By the noise level at which the UNet takes over from the flow transformer."""
    rows = [(row["name"], *(percent(*row[key]) for key in MEASURED)) for row in found["rows"]]
    return paragraphs(
        "### Two unlike models as experts",
        "Expert Switch with the flow transformer where it is noisy and the UNet below a noise level (of the flow, 0 to "
        "1): another architecture on another noise schedule, with a prompt of its own through the same CLIP. "
        f"{found['n']} prompts of one to four objects that name places; the UNet, which knows no such words, is told "
        "the same scene without them. In the named field: of the objects, those found in the field of the picture that "
        "the prompt names. The UNet was the transformer's teacher, for prompts with places below 0.6. The UNet alone "
        "runs on its own schedule, all other rows on the flow's.",
        table(("", "in the named field", "objects right", "all right", "background"), rows),
        "The first prompts, unpicked:",
        "![Unlike experts](images/ediffi_unlike.png)",
    )
