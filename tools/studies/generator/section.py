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
