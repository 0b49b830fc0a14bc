"""The results page's sections on LoRAs of regions."""

from __future__ import annotations

from ..tables import measured_on, paragraphs, percent, table


def quality_section(found: dict) -> str:
    rows = [
        (row["name"], row["judged"], percent(*row["both"]), f"{100 * row['halves']:.1f} %",
         percent(*row["all_right"]), percent(*row["share"]))
        for row in found["rows"]
    ]  # fmt: skip
    return paragraphs(
        "## LoRAs of regions on ShapesWorld",
        "`python -m tools.studies.region_lora.quality`. Two LoRAs of two styles, each for one half of the picture, "
        f"left and right in turn; {found['rows'][0]['n']} prompts of four objects that name no style, "
        f"{found['steps']} steps "
        f"of euler / normal, CFG {found['cfg']:g}, plain prompts. A classifier that was trained apart judges each half "
        "in which there is an object. *Both*: of pictures with objects in both halves, those with both in their style. "
        "*Painted pictures* is what the classifier makes of reference pictures. Chance is a sixteenth; without LoRAs "
        "the model draws one of four styles in the whole picture.",
        table(("", "N", "both in their style", "halves in theirs", "all right", "objects right"), rows),
        "The LoRAs (rank 4, about ten minutes of training each on one core) are not equally good: with Region LoRA "
        "98 % of the outlined halves are judged outlined, 67 % of the shaded ones shaded. What mixes styles in one "
        "evaluation is self-attention: with `self_strength` 0 the same LoRAs end in one style for the whole picture, "
        "and so, mostly, do ComfyUI's masked hooks, which see the whole latent in every evaluation. Goal: 80 % both; "
        "missed.",
        "The first pictures, unpicked:",
        "![Two styles in two halves](images/region_lora.png)",
    )


def speed_section(bench: dict) -> str:
    rows = [
        (f"{case['model']}, {case['size']} pixels", case["batch"], case["seconds_plain"], case["spread"], case["ratio"],
         case["ratio_masked_hooks"], case["peak_mib_plain"], case["peak_more_mib"])
        for case in bench["cases"]
    ]  # fmt: skip
    head = ("model", "batch", "plain s", "its spread", "Region LoRA", "masked hooks", "peak MiB plain", "more")
    return paragraphs(
        "## Speed and memory of regions' LoRAs",
        f"{measured_on(bench)}; variants take turns. Two LoRAs of rank 16 for all linear layers of the transformers, "
        "each in a half; CFG 5. Ratios to plain; target: 1.15. Masked hooks: ComfyUI's own. Peaks count what is "
        "allocated in a run beside the weights, the LoRAs' tensors among it.",
        table(head, rows),
    )
