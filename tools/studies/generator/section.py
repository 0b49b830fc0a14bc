"""The results page's sections on the demo model itself."""

from __future__ import annotations

from ..tables import paragraphs, percent, table

TARGETS = {"1": 0.95, "2": 0.80, "3": 0.55}


def quality_section(generator: dict) -> str:
    measured, settings = generator["table"], generator["settings"]
    rows = []
    for count in ("1", "2", "3", "4"):
        row, target = measured[count], TARGETS.get(count)
        shares = [percent(*row[k]) for k in ("all_right", "exact", "share_right")]
        rows.append((count, row["n"], *shares, f"{100 * target:.0f} %" if target else "-"))
    head = ("objects", "N", "all right (color and shape)", "exact", "share of objects right", "target for all right")
    sampler = f"{settings['sampler']} / {settings['scheduler']}, {settings['steps']} steps, CFG {settings['cfg']}"
    return paragraphs(
        "## ShapesWorld",
        f"{settings['prompts']} held-out prompts, one picture each, unpicked seeds; {sampler}, inside ComfyUI on "
        f"{generator['device']}; judged by the reader.\nIn brackets: 95 % bootstrap interval over prompts. "
        "`exact`: and nothing is there that nobody asked for.",
        table(head, rows),
        f"Background right: {100 * measured['background_right']:.1f} % (target 95 %). Time per picture at batch "
        f"{settings['batch']}, decoding and judging included: {generator['seconds_per_picture']} s (target 2 s on "
        "two idle CPU cores).",
    )


def transformer_section(plain: dict, placed: dict, related: dict, unet: dict) -> str:
    """The flow transformer beside the UNet; and whether it puts things where a prompt says."""
    settings, both = plain["settings"], (("flow transformer", plain), ("UNet", unet))
    rows = [
        (count, name, *(percent(*each["table"][count][key]) for key in ("all_right", "exact", "share_right")))
        for count in ("1", "2", "3", "4") for name, each in both
    ]  # fmt: skip
    places = [
        (count, percent(*placed["table"][count]["places_right"]), percent(*plain["table"][count]["places_right"]),
         *(percent(*each["table"][count]["related_right"]) if count != "1" else "-" for each in (related, plain)))
        for count in ("1", "2", "3", "4")
    ]  # fmt: skip
    backgrounds = ", ".join(f"{name} {100 * each['table']['background_right']:.1f} %" for name, each in both)
    return paragraphs(
        "### The flow transformer",
        "`python -m tools.studies.generator.quality --model dit`, with `--wording placed` and `related`: the same "
        f"{settings['prompts']} scenes ({placed['settings']['prompts']} where each object has its place, "
        f"{sum(row['n'] for row in related['table'].values() if isinstance(row, dict))} where two are related), "
        f"{settings['steps']} steps of {settings['sampler']} / {settings['scheduler']}, "
        f"CFG {settings['cfg']:g}.",
        table(("objects", "model", "all right (color and shape)", "exact", "share of objects right"), rows),
        f"Background right: {backgrounds}. A picture takes {plain['time_to_unet']:.2f} times the time of the UNet's.",
        "Places: of the objects asked for, how many are found in the field of the picture that the prompt names for "
        "each; and where two are told by how they stand to each other, how often they do. The control is the plain "
        "prompts, of all scenes, which name no places. Targets: all right 95, 80 and 55 % with one, two and three "
        "objects, backgrounds 95 %, named places 80 %, 1.2 times the UNet's time.",
        table(("objects", "in the named field", "control", "related as told", "control"), places),
    )


def judges_section(judges: dict, check: dict | None) -> str:
    told = (
        f"Autoencoder: {judges['autoencoder_psnr_db']} dB PSNR on 128 held-out pictures (target 28). Reader: mean IoU "
        f"{judges['reader_mean_iou']} on 512 held-out pictures, 52 classes (target 0.90)."
    )
    if check is None:
        return told
    return (
        f"{told}\nReader against {check['pictures']} generated pictures labeled by eye: "
        f"{100 * check['agreement']:.1f} % of the objects agree in color "
        f"and shape ({check['agreeing']} of {check['objects']}; target 95 %)."
    )


def training_section(training: list[dict], notes: list[str]) -> str:
    def show(row: dict) -> str:
        return ", ".join(f"{k} {v}" for k, v in row.items() if k != "step")

    rows = [
        (s["stage"], s["device"], s["minutes"], s["last"]["step"], show(s["first"]), show(s["last"])) for s in training
    ]
    head = ("stage", "device", "minutes", "steps", "first logged", "last logged")
    return paragraphs("### Training log", table(head, rows), "\n".join(f"- {note}" for note in notes))
