"""The pack's three jobs, on the model in the box and on real checkpoints: paint what goes where, two models in one run,
the best starting noise."""

from __future__ import annotations

import json
from typing import Any

from ..board import Board
from .parts import DEMO_STEPS, SDXL, THREE_THINGS, Output, encoded, models, pictures, seed, show, start, written

SCENE = "a lighthouse on a cliff above a stormy sea, oil painting"


def painting(side: int, prompt: str, regions: dict[str, tuple[str, list[float]]]) -> str:
    """A drawing of the Region Painter: an ellipse per region. regions: prompt -> color, left, top, width, height."""
    rows = [{"id": i, "color": color, "prompt": words,
             "shapes": [{"kind": "ellipse", "x": x, "y": y, "width": width, "height": height}]}
            for i, (words, (color, (x, y, width, height))) in enumerate(regions.items(), 1)]  # fmt: skip
    drawn = {"version": 2, "width": side, "height": side, "prompt": prompt, "regions": rows}
    return json.dumps(drawn, separators=(",", ":"))


def painted(board: Board, load: int, side: int, drawn: str, latent: str = "EmptyLatentImage") -> dict[str, Output]:
    """Region Painter, Dense Diffusion and a latent as large as the painting. load: the checkpoint."""
    painter = board.put("FoveaRegionPainter", 1, tint="ours", width=side, height=side, painting=drawn)
    steer = board.put("FoveaDenseDiffusion", 2, tint="ours", model=(load, 0), clip=(load, 1), regions=(painter, 0),
                      prompt=(painter, 3))  # fmt: skip
    size = board.put(latent, 0, "As large as the painting", width=(painter, 4), height=(painter, 5), batch_size=1)
    return {"model": (steer, 0), "positive": (steer, 1), "negative": (steer, 2), "vae": (load, 2), "latent": (size, 0),
            "regions": (painter, 0), "prompt": (painter, 3)}  # fmt: skip


def paint_demo(board: Board) -> None:
    board.wide = 320
    load = board.put("FoveaLoadDemo", 0)
    given = painted(board, load, 256, painting(256, f"{THREE_THINGS} on a white background, flat style", {
        "a plain red star": ("#e6194b", [0.04, 0.05, 0.42, 0.44]),
        "a striped green heart": ("#3cb44b", [0.54, 0.06, 0.41, 0.4]),
        "a plain blue circle": ("#4363d8", [0.3, 0.55, 0.4, 0.4]),
    }))  # fmt: skip
    hinted = board.put("FoveaRegionStart", 3, tint="ours", model=given["model"], regions=given["regions"],
                       background=given["prompt"])  # fmt: skip
    few: dict[str, Any] = {**DEMO_STEPS, "steps": 8}
    given["seed"] = board.put("PrimitiveInt", 0, "Seed", "shared", value=7), 0
    show(board, 3, given, "The picture", model=(hinted, 0), tall=420, **few)
    board.note(
        """## Paint what goes where

Press **Run**: most objects appear where their colors are painted. Then paint.

- Click a **color** to choose a region, then draw: brush, rectangle, ellipse, lasso, fill. The right button erases.
- Write a **prompt** beside the color. **Write prompt** joins them to the whole prompt.
- For a picture that **follows the brush**, open the menu beside *Run* and choose *Run (On Change)*.
""",
        """## Try

- another object: *plain, striped, dotted; red, green, blue, yellow, orange, purple, pink, cyan; star, heart, circle,
square, triangle, cross*;
- **strength** 0 in *Region Start*: without its color hints, fewer things land in their places;
- **your own model**: *Load Checkpoint* in the place of *Load Demo Model*, a painting of its size, its usual steps.
""",
    )


def paint_sdxl(board: Board) -> None:
    board.wide = 320
    load = board.put("CheckpointLoaderSimple", 0, models=models(SDXL), ckpt_name=SDXL)
    given = painted(board, load, 1024, painting(1024, "a red balloon and a brown dog on a meadow, photograph", {
        "a red balloon": ("#e6194b", [0.1, 0.06, 0.34, 0.46]),
        "a brown dog": ("#9a6324", [0.5, 0.5, 0.44, 0.44]),
    }))  # fmt: skip
    given["seed"] = board.put("PrimitiveInt", 0, "Seed", "shared", value=7), 0
    show(board, 3, given, "The picture", tall=420)
    board.note(
        f"""## Paint what goes where, with SDXL

Two painted regions, each with its own words, on {SDXL}. The attention of the model is steered in the first part of the
schedule; no further evaluation is needed. Every SDXL checkpoint works, and
[many other models](https://github.com/fovea/fovea/blob/main/docs/models.md).
""",
        """## Try

- a region is not obeyed: raise **end_percent** or **cross_strength**; pressed into its outline: lower the latter;
- **Region Start** between *Dense Diffusion* and the sampler: things appear more surely where they are painted;
- **Add LoRA to Region** behind the painter: a LoRA for each region.
""",
    )


def experts_demo(board: Board) -> None:
    text = "a plain red star{}, a striped green heart{} and a plain blue circle{} on a white background, flat style"
    places = (" at the top left", " at the top right", " at the bottom")
    load = board.put("FoveaLoadDemo", 0, "First: knows words for places", variant="flow transformer")
    other = board.put("FoveaLoadDemo", 0, "Second: knows none")
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    given["latent"] = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=4), 0
    given["seed"] = seed(board, 0, 5)
    given["positive"] = encoded(board, 1, "Prompt", given["clip"], text.format(*places))
    given["negative"] = encoded(board, 1, "Empty prompt", given["clip"], "")
    own: dict[str, Any] = {
        "positive": encoded(board, 1, "Prompt for the second", (other, 1), text.format("", "", "")),
        "negative": encoded(board, 1, "Empty prompt for the second", (other, 1), ""),
    }
    expert = board.put("FoveaExpert", 2, tint="ours", model=(other, 0), boundary_unit="SNR dB", boundary=-7.0, **own)
    sigmas = board.put("BasicScheduler", 2, "For the report", model=given["model"], scheduler="normal", steps=20)
    switch = board.put("FoveaExpertSwitch", 2, tint="ours", model=given["model"], experts=(expert, 0),
                       sigmas=(sigmas, 0))  # fmt: skip
    board.put("PreviewAny", 2, "Who acts at which step", tall=300, source=(switch, 1))
    show(board, 3, given, "The second alone", model=(other, 0), **own, **DEMO_STEPS)
    show(board, 3, given, "Both, in as many steps", model=(switch, 0), **DEMO_STEPS)
    board.note(
        """## Two models in one run

Press **Run**. A transformer that knows words for places begins: it decides what goes where. From a signal-to-noise
ratio of -7 dB on, *Expert* hands over to a UNet that knows no such words, with a prompt without them: it draws the
shapes. One sampler, 20 steps of one model each; the report names the model of every step.

In 64 tests the objects are where the words say in 82 % of the cases, with the UNet alone in 14 %. All of a picture's
objects are right in 77 %; with the transformer alone in 70 %, with the UNet alone in 75 %.
""",
        """## Try

- **boundary** -12 or 0: the second begins earlier, and decides the places too, or later;
- the sampler of *The second alone* on the transformer's model and prompts: what that draws alone;
- **blend** 1: both models are mixed around the border, at twice the cost there;
- **your own models**: two *Load Diffusion Model*, and the preset in **boundary_unit**: the template for Wan 2.2.
""",
    )


def experts_wan(board: Board) -> None:
    high, low = (f"wan2.2_t2v_{part}_noise_14B_fp8_scaled.safetensors" for part in ("high", "low"))
    encoder, coder = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
    first = board.put("UNETLoader", 0, "High noise", models=models(high), unet_name=high)
    second = board.put("UNETLoader", 0, "Low noise", models=models(low), unet_name=low)
    clip = board.put("CLIPLoader", 0, models=models(encoder), clip_name=encoder, type="wan")
    vae = board.put("VAELoader", 0, models=models(coder), vae_name=coder)
    shifted = [board.put("ModelSamplingSD3", 1, model=(model, 0), shift=12.0) for model in (first, second)]
    positive = encoded(board, 1, "Prompt", (clip, 0), "waves break on a cliff")
    negative = encoded(board, 1, "Negative prompt", (clip, 0), "still picture, blurry")
    video = board.put("EmptyHunyuanLatentVideo", 1, width=640, height=640, length=33)
    expert = board.put("FoveaExpert", 2, tint="ours", model=(shifted[1], 0), boundary_unit="Wan 2.2 T2V, low noise")
    switch = board.put("FoveaExpertSwitch", 2, tint="ours", model=(shifted[0], 0), experts=(expert, 0))
    board.put("PreviewAny", 2, "Who acts where", source=(switch, 1))
    sampled = board.put("KSampler", 3, "One run", model=(switch, 0), positive=positive, negative=negative,
                        latent_image=(video, 0), seed=7, steps=20, cfg=4.0, sampler_name="euler",
                        scheduler="simple")  # fmt: skip
    pictures(board, 3, {"vae": (vae, 0)}, (sampled, 0), "Frames")
    board.note(
        """## Wan 2.2's two models in one run

The model for high noise begins; below the level at which Wan was trained to change, the other takes over with its own
CFG (the preset knows both). One KSampler in place of two in a row: multistep and SDE samplers stay whole.
""",
        """## Try

- a 4-step LoRA on each model: **steps** 4, **shift** 5, **cfg** 1 on *Expert* and the sampler;
- **memory** *unload* on small cards;
- **Expert Sigmas** with *Expert Guider*: as many steps for each model as you say.
""",
    )


def best_of_demo(board: Board) -> None:
    load = board.put("FoveaLoadDemo", 0)
    prompt = f"{THREE_THINGS} on a white background, flat style"
    text = written(board, 0, "The prompt, for model and scorer", prompt)
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    scorer = board.put("FoveaLoadScorer", 0)
    given["latent"] = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=1), 0
    four = board.put("EmptyLatentImage", 0, "Four pictures", folded=True, width=256, height=256, batch_size=4), 0
    given["seed"] = board.put("PrimitiveInt", 0, "Seed for both", "shared", value=20), 0
    given["positive"] = encoded(board, 1, "Prompt", given["clip"], text)
    given["negative"] = encoded(board, 1, "Empty prompt", given["clip"], "")
    chance = show(board, 1, given, "Four noises by chance", beside=2, latent=four, **DEMO_STEPS)
    found = board.put(
        "FoveaBestOfN", 2, tint="ours", model=given["model"], vae=given["vae"], positive=given["positive"],
        negative=given["negative"], latent_image=given["latent"], scorer=(scorer, 0), prompt=text, seed=given["seed"],
        steps=20, cfg=4.0, candidates=12,
    )  # fmt: skip
    board.put("PreviewImage", 3, "The best of 12", images=(found, 1))
    scored = board.put("FoveaScoreImages", 4, "The four, scored", "ours", image=chance, scorer=(scorer, 0), prompt=text)
    board.put("PreviewAny", 4, "Their scores", tall=140, source=(scored, 2))
    board.put("PreviewImage", 4, "The losses of all", tall=300, images=(found, 4))
    board.note(
        """## The best starting noise

Press **Run**. The sampler draws four pictures with noises by chance, and *Score Images* sorts them by how well they fit
the prompt, as a scorer (a CLIP) sees it. *Best of N* draws 12 and keeps the best.
""",
        """## Try

- more **candidates**: time is their number times that of a picture;
- **rounds** 2: the worse half is dropped early, twice, so that more candidates fit into the same time;
- *Optimize Latent* in its place goes on from the best noise: a template of its own;
- **your own model**: *Load Checkpoint*, and a CLIP for *models/scorers*, or *Scorer from CLIP*.
""",
    )


def best_of_sdxl(board: Board) -> None:
    eyes = "clip_vision_g.safetensors"
    given = start(board, SDXL, 1024, SCENE)
    sees = board.put("CLIPVisionLoader", 1, models=models(eyes), clip_name=eyes)
    scorer = board.put("FoveaScorerFromCLIP", 1, tint="ours", clip_vision=(sees, 0), clip=given["clip"])
    show(board, 1, given, "The first noise", 20, 6.0, "euler", "normal", beside=2)
    found = board.put(
        "FoveaBestOfN", 2, tint="ours", model=given["model"], vae=given["vae"], positive=given["positive"],
        negative=given["negative"], latent_image=given["latent"], scorer=(scorer, 0), prompt=SCENE, seed=given["seed"],
        cfg=6.0, steps=20, candidates=8, rounds=2,
    )  # fmt: skip
    board.put("PreviewImage", 3, "The best of 8", images=(found, 1))
    board.put("PreviewImage", 4, "The losses of all", images=(found, 4))
    board.put("PreviewAny", 4, "What was done", source=(found, 5))
    board.note(
        f"""## The best starting noise, with SDXL

Eight starting noises on {SDXL}; the worse half is dropped twice before the end. The scorer is SDXL's own CLIP-G with
the picture tower that it was trained with, so that no other scorer is needed.
""",
        """## Try

- more **candidates**: with **rounds** 2 each costs about 60 % of a picture, plus the looks;
- **Load Scorer** in the place of *Scorer from CLIP*: HPS v2 and others, put into *models/scorers*;
- **regions** of a Region Painter on *Best of N*: each place is scored with its own words.
""",
    )
