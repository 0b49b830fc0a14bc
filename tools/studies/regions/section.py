"""The results page's sections on regions."""

from __future__ import annotations

from collections.abc import Iterable

from ..tables import interval, measured_on, paragraphs, reference_note, table
from .layouts import CEILING
from .methods import WITH_COLORS


def quality_section(report: dict, tuning: dict) -> str:
    """Every method on the report's layouts; what was tried on the tuning set."""
    found = report["table"]
    order = sorted(found, key=lambda name: -found[name]["iou"][0])
    rows = [
        (name, interval(r["iou"], 100), interval(r["iou_gain"], 100), interval(r["there"], 100),
         interval(r["global"], 1, 3), interval(r["local"], 1, 3), f"{r['frechet']:.0f}", f"{r['kid']:.2f}")
        for name, r in ((name, found[name]) for name in order)
    ]  # fmt: skip
    head = ("method", "IoU %", "IoU, more than none", "objects there %", "CLIP B, whole", "CLIP B, regions", "Frechet",
            "KID")  # fmt: skip
    kinds = [key for key in found["none"] if key.startswith("iou, ")]
    parts = [(name, *(f"{100 * found[name][key]:.1f}" for key in kinds)) for name in order]
    tried = sorted(tuning["table"].items(), key=lambda item: -item[1]["iou"][0])
    told = ""
    for name in ("fovea", "contrast 4/1 end 0.5 pow 2"):  # the second is what it was found as, counted in ranges
        if name in tuning["table"] and not told:
            told = (f" `fovea` was chosen on the tuning set, where `{name}` has "
                    f"{100 * tuning['table'][name]['there'][0]:.0f} % of the objects in place.")  # fmt: skip
    return paragraphs(
        "## Regions on ShapesWorld",
        f"`make eval`: {report['layouts']} layouts of two, three and four regions (boxes, blobs and thin shapes), "
        f"one picture each, the same seeds for every method; {report['steps']} steps of euler / normal, CFG "
        f"{report['cfg']:g}, on {report['device']}; judged by the reader. IoU: of a region with all pixels of its "
        "object's color and shape. There: the object covers at least 15 % of its region. CLIP B: cosine of the "
        "picture and the caption, and of each region's surroundings and a caption of its object alone. Frechet "
        f"distance and KID on CLIP B's features against {report['painted']} reference pictures. In brackets: 95 % "
        "bootstrap interval over layouts.",
        f"Reference pictures have every object there and an IoU of {100 * CEILING:.0f} (48 tuning layouts), since "
        f"masks are as large as the objects, but not their shapes: an IoU is to be read against that.{told} Without "
        "regions an object goes where the noise happens to resemble its color, since captions in training named no "
        "places.",
        table(head, rows),
        reference_note(report),
        "![Methods](images/regions_bars.png)",
        "IoU in percent, by kind of region and by number of regions:",
        table(("method", *(key.removeprefix("iou, ") for key in kinds)), parts),
        "The first layouts, unpicked; places are drawn in their object's color:",
        "![Pictures](images/regions_methods.png)",
        "One layout and seed with `fovea`; phrases go round from row to row, styles from column to column:",
        "![Swapped](images/regions_swapped.png)",
        "Attention scores of places in a region above their row's mean, for the keys that match (the region's "
        "words; its own places) and for the others, over twelve layouts:",
        "![Scores](images/regions_scores.png)",
        f"Tried on the tuning set, whose layouts and seeds are others: all candidates on a third of its "
        f"{tuning['layouts']} layouts, the best on all.",
        table(
            ("candidate", "layouts", "IoU %", "there %", "CLIP B, whole"),
            [
                (name, r["n"], interval(r["iou"], 100), interval(r["there"], 100), interval(r["global"], 1, 3))
                for name, r in tried
            ],
        ),
    )


def by_what_is_told(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Methods that are told masks and words, and those that are told colors too: not the same task."""
    told = [*names]
    return [name for name in told if name not in WITH_COLORS], [name for name in told if name in WITH_COLORS]


def start_section(report: dict) -> str:
    """What changes of the starting noise add, by what a method is told."""
    found = report["table"]
    counts = [key.removeprefix("success, regions ") for key in found["none"] if key.startswith("success, ")]
    head = ("method", "objects there %", "IoU %", "success %", *(f"with {n} %" for n in counts), "all right %",
            "background %", "extra objects", "CLIP B, whole", "less none", "CLIP B, regions", "Frechet",
            "time")  # fmt: skip

    def rows(names: list[str]) -> list[tuple]:
        return [
            (name, interval(r["there"], 100), interval(r["iou"], 100), interval(r["success"], 100),
             *(f"{100 * r[f'success, regions {n}'][0]:.0f}" for n in counts),
             interval(r["all right"], 100), interval(r["background"], 100), interval(r["extra"], 1, 2),
             interval(r["global"], 1, 3), interval(r["global_gain"], 1, 3), interval(r["local"], 1, 3),
             f"{r['frechet']:.0f}", r.get("time", ""))
            for name, r in ((name, found[name]) for name in names)
        ]  # fmt: skip

    words, colors = by_what_is_told(found)
    return paragraphs(
        "## The start of regions on ShapesWorld",
        f"`python -m tools.studies.regions.quality --set start`: {report['layouts']} layouts of the report set and "
        f"their seeds, {report['steps']} steps of euler / normal, CFG {report['cfg']:g}; the nodes with their defaults "
        "but for what a row names. There, IoU, CLIP B, Frechet: as above. Success: of a region whose IoU is at least "
        f"{CEILING / 2:.2f}, half of what reference pictures have. All right: every object has its color and shape, "
        "wherever it is. Settings were chosen on 48 layouts of the tuning set; these are the second half of the report "
        "set, since the means of changed noise were mended after a look at the first. Time: of a picture with encoding "
        "and decoding, to none.",
        "Told masks and words:",
        table(head, rows(words)),
        "Told colors too, which the words name: not the same task.",
        table(head, rows(["none", *colors])),
        reference_note(report),
        "The first layouts, unpicked; places are drawn in their object's color:",
        "![Starts](images/regions_start.png)",
    )


def transformer_section(report: dict, unet: dict) -> str:
    """The same nodes on the flow transformer."""
    found, of_unet = report["table"], unet["table"]
    head = ("method", "objects there %", "the UNet", "IoU %", "success %", "all right %", "background %",
            "CLIP B, whole", "less none", "time")  # fmt: skip

    def rows(names: list[str]) -> list[tuple]:
        return [
            (name, interval(r["there"], 100), f"{100 * of_unet[name]['there'][0]:.0f}" if name in of_unet else "-",
             interval(r["iou"], 100), interval(r["success"], 100), interval(r["all right"], 100),
             interval(r["background"], 100), interval(r["global"], 1, 3), interval(r["global_gain"], 1, 3),
             r.get("time", ""))
            for name, r in ((name, found[name]) for name in names)
        ]  # fmt: skip

    words, colors = by_what_is_told(found)
    return paragraphs(
        "### Regions on the flow transformer",
        f"`python -m tools.studies.regions.quality --set start --model dit`: the first {report['layouts']} of these "
        f"layouts with their seeds, everything else as above; the UNet's column is of {unet['layouts']}. The "
        "prompts name no places, though this model knows words for them.",
        "Told masks and words:",
        table(head, rows(words)),
        "Told colors too:",
        table(head, rows(["none", *colors])),
    )


def trained_section(report: dict) -> str:
    """What training a model to follow regions gives, apart from the methods' own tables."""
    found, minutes = report["table"], report["minutes"]
    head = ("method", *(f"objects there %, {model}" for model in found), "trained less sham",
            *(f"all right %, {model}" for model in found), *(f"CLIP B, {model}" for model in found))  # fmt: skip

    def rows(names: list[str]) -> list[tuple]:
        return [
            (name, *(interval(own[name]["there"], 100) for own in found.values()),
             interval(found["trained"][name]["there_over_sham"], 100),
             *(f"{100 * own[name]['all right'][0]:.0f}" for own in found.values()),
             *(f"{own[name]['global'][0]:.3f}" for own in found.values()))
            for name in names
        ]  # fmt: skip

    words, colors = by_what_is_told(found["trained"])
    return paragraphs(
        "### A model that was trained to follow regions",
        f"`python -m tools.studies.regions.trained`: the first {report['layouts']} of these layouts with their seeds. "
        "*trained*: the UNet with a low-rank change (variant *trained to follow regions* of Load Demo Model), "
        f"{minutes['trained']:.0f} minutes with attention steered to the true places in half of the noisy samples, by "
        f"operators and strengths drawn at random. *sham*: {minutes['sham']:.0f} minutes on the same pictures without "
        "steering; it does not ship. This is no method, and not in the methods' tables: it shows what they do where "
        "attention was asked to place things. How to do it with another model: "
        "[technique page](techniques/regions.md#a-model-trained-to-follow-regions).",
        "Told masks and words:",
        table(head, rows(words)),
        "Told colors too:",
        table(head, rows(colors)),
    )


def overlap_section(report: dict) -> str:
    """Who is in front where regions overlap."""
    levels = [key for key in report["table"]["none"] if key.startswith("front at ")]
    return paragraphs(
        "### Where regions overlap",
        f"`python -m tools.studies.regions.overlap`: {report['layouts']} layouts of two boxes, the second in front. "
        "In front: of what both boxes cover, the object in front has more than half of the pixels that are any "
        "object's. A method that draws nothing there is wrong.",
        table(
            ("method", "in front %", *(f"{key.removeprefix('front at ')} overlap" for key in levels),
             "there behind %", "there in front %"),
            [
                (name, interval(r["front"], 100), *(interval(r[key], 100) for key in levels),
                 interval(r["there behind"], 100), interval(r["there in front"], 100))
                for name, r in report["table"].items()
            ],
        ),
    )  # fmt: skip


def identities_section(report: dict) -> str:
    """Two of one kind, told apart by color."""
    return paragraphs(
        "### Two of one kind",
        f"`python -m tools.studies.regions.identities`: {report['layouts']} prompts of two objects of one shape in two "
        "colors, side by side, each in a region of its half. Apart: each color in its half and not in the other's.",
        table(
            ("method", "apart %", "both there %", "a color in the other's half %"),
            [
                (name, interval(r["apart"], 100), interval(r["both"], 100), interval(r["leak"], 100))
                for name, r in report["table"].items()
            ],
        ),
    )  # fmt: skip


def speed_section(bench: dict) -> str:
    """Steered attention beside plain attention and beside the operator with its matrices, per call and per run."""
    calls = [
        (call["call"], f"{call['tokens']} x {call['heads']}", name, v["seconds"], v["to_plain"], v["to_published"],
         v["peak_mib"], v["peak_to_plain"])
        for call in bench["calls"]
        for name, v in call["variants"].items()
    ]  # fmt: skip
    runs = [
        (f"{run['model']}, {run['size']} pixels", run["batch"], run["steps"], run["seconds_plain"],
         run["seconds_steered"], run["ratio"])
        for run in bench["runs"]
    ]  # fmt: skip
    head = ("call", "tokens x heads", "variant", "s", "to plain", "to published", "peak MiB", "peak to plain")
    parts = [
        "## Speed and memory of regions",
        f"{measured_on(bench)}; variants take turns.",
    ]
    if calls:
        parts[-1] += (
            " One self-attention call of one prompt with four regions; `published`: DenseDiffusion with its matrices "
            "written out. Peaks include q, k and v. Targets: 0.45 of the published time, 1.2 times the plain peak."
        )
        if "fovea" in bench["calls"][0]["variants"]:
            parts[-1] += " `ours`: method *densediffusion*; `fovea`: that method, whose target is 1.2 times plain."
        parts.append(table(head, calls))
    parts += [
        "Whole sampling runs at CFG 5, steered in the paper's window (30 % of the schedule). Target: 1.25.",
        table(("model", "batch", "steps", "plain s", "steered s", "ratio"), runs),
    ]
    every = [run for run in bench["runs"] if "ratio_every_step" in run]
    if every:
        rows = [(f"{run['model']}, {run['size']} pixels", run["seconds_every_step"], run["ratio_every_step"])
                for run in every]  # fmt: skip
        parts += [
            "Method *fovea* in every step. Target: 1.15.",
            table(("model", "steered s", "ratio"), rows),
        ]
    if "pictures" in bench:
        drawn = bench["pictures"]
        ways = [(name, way["seconds"], way["spread"], way["ratio"]) for name, way in drawn["ways"].items()]
        parts += [
            f"A picture of the demo model, encoding and decoding included: {drawn['regions']} regions "
            f"({drawn['form']}), {drawn['steps']} steps, CFG {drawn['cfg']:g}, {drawn['repeats']} turns; the nodes' "
            "defaults. Spread: (largest - smallest) / median.",
            table(("what", "s", "spread", "ratio"), ways),
        ]
    return paragraphs(*parts)
