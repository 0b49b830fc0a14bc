"""A template for each other technique, on the model in the box."""

from __future__ import annotations

from ..board import Board
from .parts import DEMO_STEPS, THREE_THINGS, Output, demo, encoded, pictures, seed, seen, show, written

WHITE, GREEN, BLUE = 0xFFFFFF, 0x00FF00, 0x0000FF
HALVES = """[
  {"bbox": [0, 0, 1000, 500], "desc": "LEFT"},
  {"bbox": [0, 500, 1000, 1000], "desc": "RIGHT"}
]"""
FOUR_THINGS = "a plain red star, a striped green heart, a plain blue circle and a dotted orange square"


def sag_demo(board: Board) -> None:
    prompt = ("a striped red circle at the top left and a plain blue star at the bottom right on a white background, "
              "flat style")  # fmt: skip
    given = demo(board, prompt, variant="flow transformer")
    guided = board.put("FoveaSelfAttentionGuidance", 1, tint="ours", model=given["model"], scale=0.75)
    show(board, 2, given, "Without guidance", **DEMO_STEPS)
    samples = len(board.nodes) + 1, 0  # of the sampler that comes now
    show(board, 2, given, "With guidance", model=(guided, 0), **DEMO_STEPS)
    one = board.put("LatentFromBatch", 4, "The first picture", folded=True, samples=samples, batch_index=0, length=1)
    maps = board.put("FoveaAttentionMap", 4, tint="ours", model=given["model"], positive=given["positive"],
                     latent=(one, 0), clip=given["clip"], vae=given["vae"], levels="0.2, 0.5, 0.8", phrase="blue star",
                     prompt=prompt)  # fmt: skip
    seen(board, 4, maps, 0, "Where the model looks", tall=330)
    board.note(
        """## Self-Attention Guidance, without and with

Press **Run**. Both samplers start from the same seed and the same prompt; only the lower one samples from the guided
model. Compare outlines, textures, smudges, how well shapes hold together. On the demo's UNet no difference beyond
chance was measured.

*Attention Map* shows, at three noise levels, what the model looks at and what guidance blurs (*SAG mask*). This variant
of the demo model is a transformer that samples by flow, as most new models do; it knows words for places.
""",
        """## Try

- **scale** 0: the two rows become identical. 2: too much of it.
- an **empty prompt** and **cfg** 1 in both samplers: guidance works without a prompt.
- another **phrase** of the prompt on *Attention Map*: which places attend to these words;
- **variant** *ShapesWorld*, a UNet like SD1.5, which knows no words for places;
- **your own model**: *Load Checkpoint*, and its size (512 for SD1.5, 1024 for SDXL).
""",
    )


def region_loras(board: Board, given: dict[str, Output], size: int, halves: dict[str, str]) -> Output:
    """Two halves with a LoRA each -> the model. halves: by their names, left and right: the LoRA."""
    left, right = halves
    text = written(board, 1, "Two halves in thousandths: top, left, bottom, right",
                   HALVES.replace("LEFT", left).replace("RIGHT", right))  # fmt: skip
    regions = (board.put("FoveaRegionsFromBoxes", 1, boxes=text, width=size, height=size), 0)
    for number, (name, lora) in enumerate(halves.items(), 1):
        regions = (board.put("FoveaAddRegionLora", 2, f"LoRA of the {name}", "ours", regions=regions,
                             region=str(number), lora_name=lora), 0)  # fmt: skip
    return board.put("FoveaRegionLora", 2, tint="ours", model=given["model"], regions=regions), 0


def region_lora_demo(board: Board) -> None:
    given = demo(board, f"{FOUR_THINGS} on a white background")
    styles = {"left half": "ShapesWorld: shaded", "right half": "ShapesWorld: outlined"}
    model = region_loras(board, given, 256, styles)
    show(board, 3, given, "Without LoRAs", **DEMO_STEPS)
    show(board, 3, given, "A LoRA per half", model=model, **DEMO_STEPS)
    board.note(
        """## A LoRA for each region

Press **Run**. Two LoRAs that ship for the demo model: *shaded* acts in the left half, *outlined* in the right one.
Nothing is evaluated twice.
""",
        """## Try

- **region** of a LoRA node: a number, a part of a prompt, or empty for all;
- **strength_model** 0.5, or 1.5;
- **Region Painter** in the place of the boxes;
- **common** 0: words that belong to no region take no LoRA.
""",
    )


def part_anew(board: Board) -> None:
    load = board.put("FoveaLoadDemo", 0)
    prompt = written(board, 0, "The prompt", f"{FOUR_THINGS} on a white background, flat style")
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    latent = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=1)
    given["seed"] = board.put("PrimitiveInt", 0, "Seed for both", "shared", value=7), 0
    places = ("top left quarter: a plain red star\ntop right quarter: a striped green heart\n"
              "bottom left quarter: a plain blue circle\nbottom right quarter: a dotted orange square")  # fmt: skip
    regions = board.put("FoveaRegionsFromText", 1, text=places)
    steer = board.put("FoveaDenseDiffusion", 2, tint="ours", model=given["model"], clip=given["clip"],
                      regions=(regions, 0), prompt=prompt)  # fmt: skip
    given["negative"] = steer, 2
    whole = len(board.nodes) + 1, 0  # the sampler that comes now
    picture = show(board, 3, given, "The whole picture", model=(steer, 0), positive=(steer, 1), latent=(latent, 0),
                   tall=270, **DEMO_STEPS)  # fmt: skip
    part = board.put("FoveaCropRegions", 1, tint="ours", regions=(regions, 0), x=128, y=0, width=128, height=128,
                     picture_width=256, picture_height=256)  # fmt: skip
    masked = board.put("FoveaRegionsToConditioning", 1, tint="ours", clip=given["clip"], regions=(part, 0),
                       prompt="a white background, flat style")  # fmt: skip
    cut = board.put("LatentCrop", 0, "The part: a quarter", samples=whole, width=128, height=128, x=128, y=0)
    large = board.put("LatentUpscale", 3, "Twice as large", folded=True, samples=(cut, 0), upscale_method="bislerp",
                      width=256, height=256)  # fmt: skip
    anew = show(board, 3, given, "The part, drawn anew", positive=(masked, 0), latent=(large, 0), denoise=0.5,
                tall=270, **DEMO_STEPS)  # fmt: skip
    small = board.put("ImageScale", 3, "Back to its size", folded=True, image=anew, upscale_method="area", width=128,
                      height=128)  # fmt: skip
    pasted = board.put("ImageCompositeMasked", 3, "Back into the picture", folded=True, destination=picture,
                       source=(small, 0), x=128, y=0)  # fmt: skip
    board.put("PreviewImage", 4, "Put back", tall=270, images=(pasted, 0))
    board.note(
        """## Draw a part anew, with the regions that lie in it

Press **Run**. A picture with four regions; one quarter of it is enlarged and drawn again. *Crop Regions* gives the
regions as they lie in that quarter: without it, all four would be squeezed into it.

The part is drawn with *Regions to Conditioning*, ComfyUI's own masked prompts, which work with every model.
""",
        """## Try

- **x** and **y** of *Crop Regions*, of *The part* and of *Back into the picture*: 0 or 128 for another quarter;
- **denoise** 0.3 of the second sampler: closer to the first picture;
- *Dense Diffusion* with **end_percent** 1 in the place of *Regions to Conditioning*: one evaluation in place of one
  per region.
""",
    )


def optimize_demo(board: Board) -> None:
    board.wide = 290
    load = board.put("FoveaLoadDemo", 0)
    text = written(board, 0, "The prompt, for model and scorer", f"{THREE_THINGS} on a white background, flat style")
    scorer = board.put("FoveaLoadScorer", 0)
    saliency = board.put("FoveaLoadSaliencyModel", 0), 0
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    given["latent"] = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=2), 0
    given["seed"] = seed(board, 0, 11)
    given["positive"] = encoded(board, 1, "Prompt", given["clip"], text)
    given["negative"] = encoded(board, 1, "Empty prompt", given["clip"], "")
    few = {**DEMO_STEPS, "steps": 8}
    show(board, 1, given, "Not optimized", beside=2, tall=270, **few)
    pushed = board.put("FoveaCLIPGuidance", 1, model=given["model"], vae=given["vae"], scorer=(scorer, 0), prompt=text)
    found = board.put(
        "FoveaOptimizeLatent", 2, tint="ours", model=given["model"], vae=given["vae"], positive=given["positive"],
        negative=given["negative"], latent_image=given["latent"], scorer=(scorer, 0), prompt=text, seed=given["seed"],
        steps=8, cfg=4.0, iterations=12, salient_weight=0.3, candidates=4, saliency_model=saliency,
    )  # fmt: skip
    board.put("PreviewImage", 3, "Optimized", tall=270, images=(found, 1))
    board.put("PreviewImage", 3, "Losses", tall=270, images=(found, 4))
    salient = board.put("FoveaSaliencyMap", 4, image=(found, 1), saliency_model=saliency)
    seen(board, 4, salient, 1, "Where people look", tall=270)
    show(board, 4, given, "CLIP guidance, for comparison", beside=1, tall=270, model=(pushed, 0), **few)
    board.note(
        """## Optimize the starting noise

Press **Run**. *Optimize Latent* begins with the noise of the first sampler and three others, asks the scorer which
picture fits the prompt best, and changes that noise a little, again and again. The best of all trials is kept.
*CLIP Guidance*, which pushes every step instead, is there to compare with: in our measurements it does not help.
""",
        """## Try

- more **candidates** and **iterations**: time grows with both; **salient_weight** 0 looks at the whole picture only;
- **preset** *SGOOL* or *DOODL*: the papers' exact gradient, over twice the time per iteration, and 50 of them;
- **your own model**: *Load Checkpoint*, and a CLIP, PickScore or HPS file in *models/scorers*.
""",
    )


def sources_demo(board: Board) -> None:
    board.wide = 290
    load = board.put("FoveaLoadDemo", 0)
    prompt = written(board, 0, "The prompt", f"{FOUR_THINGS} on a white background, flat style")
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    given["latent"] = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=4), 0
    given["seed"] = board.put("PrimitiveInt", 0, "Seed", "shared", value=7), 0
    box = '[{"bbox": [40, 40, 480, 480], "desc": "a plain red star"}]'
    boxes = written(board, 1, "A box: top, left, bottom, right", box, 80)
    canvas = board.put("EmptyImage", 1, "A white canvas", folded=True, width=256, height=256, color=WHITE)
    painting = canvas, 0
    for name, color, y in (("green", GREEN, 10), ("blue", BLUE, 140)):
        patch = board.put("EmptyImage", 1, f"A {name} square", folded=True, width=105, height=105, color=color)
        painting = board.put("ImageCompositeMasked", 1, f"The {name} one pasted", folded=True, destination=painting,
                             source=(patch, 0), x=140, y=y), 0  # fmt: skip
    board.put("PreviewImage", 1, "A painting (or Load Image)", tall=270, images=painting)
    mask = board.put("ImageColorToMask", 1, "Its blue as a mask", folded=True, image=painting, color=BLUE)
    boxed = board.put("FoveaRegionsFromBoxes", 2, tint="ours", boxes=boxes, width=256, height=256)
    worded = board.put("FoveaRegionsFromText", 2, tint="ours", regions=(boxed, 0), width=256, height=256,
                       text="0.05,0.55,0.45,0.95: a dotted orange square")  # fmt: skip
    colored = board.put("FoveaRegionsFromColors", 2, tint="ours", regions=(worded, 0), image=painting,
                        colors="#00ff00: a striped green heart")  # fmt: skip
    region = board.put("FoveaRegion", 3, tint="ours", regions=(colored, 0), mask=(mask, 0),
                       prompt="a plain blue circle")  # fmt: skip
    preview = board.put("FoveaRegionPreview", 3, regions=(region, 0), width=256, height=256)
    seen(board, 3, preview, 0, "All regions", tall=270)
    steer = board.put("FoveaPaintWithWords", 4, tint="ours", model=given["model"], clip=given["clip"],
                      regions=(region, 0), prompt=prompt)  # fmt: skip
    show(board, 4, given, "The picture", model=(steer, 0), positive=(steer, 1), negative=(steer, 2), **DEMO_STEPS)
    layout = board.put("FoveaRegionsToLayoutPrompt", 5, tint="ours", regions=(region, 0))
    board.put("PreviewAny", 5, "For models that read layouts", source=(layout, 0))
    board.note(
        """## Regions from boxes, words, colors and masks

Press **Run**. Every node adds its region to those that come in: a box, a place in words, a color of a painting, a mask.
*Region Preview* shows all, and what is left of them on coarse layers; *Paint with Words* draws them.

Newer models (FLUX 3, MOSS-Image, Ideogram 4) read boxes in the prompt: *Regions to Layout Prompt* writes them.
""",
        """## Try

- *left third: a red star*, *bottom 30%: a blue heart* or *columns: a star | a heart* in *Regions from Text*;
- what a detector finds, or **Create Bounding Boxes**, in the place of the box's text;
- *Dense Diffusion* in the place of *Paint with Words*;
- another **format** of *Regions to Layout Prompt*.
""",
    )


def steps_demo(board: Board) -> None:
    first = board.put("FoveaLoadDemo", 0, "The expert for high noise", variant="expert: high noise")
    second = board.put("FoveaLoadDemo", 0, "The expert for low noise", variant="expert: low noise")
    text = "a dotted cyan heart, a plain red square and a striped yellow star on a gray background, shaded style"
    clip = first, 1
    positive, negative = encoded(board, 0, "Prompt", clip, text), encoded(board, 0, "Empty prompt", clip, "")
    latent = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=4), 0
    expert = board.put("FoveaExpert", 1, tint="ours", model=(second, 0), boundary_unit="timestep", boundary=0.66), 0
    noise = board.put("RandomNoise", 1, noise_seed=5), 0
    sampler = board.put("KSamplerSelect", 1, sampler_name="dpmpp_2m"), 0
    guider = board.put("FoveaExpertGuider", 2, tint="ours", model=(first, 0), experts=expert, positive=positive,
                       negative=negative, cfg=4.0), 0  # fmt: skip
    for steps in ("4, 12", "8, 8"):
        title = " and ".join(f"{count} steps" for count in steps.split(", "))
        sigmas = board.put("FoveaExpertSigmas", 2, title, "ours", model=(first, 0), experts=expert,
                           steps_per_model=steps), 0
        sampled = board.put("SamplerCustomAdvanced", 3, title, noise=noise, guider=guider, sampler=sampler,
                            sigmas=sigmas, latent_image=latent)  # fmt: skip
        pictures(board, 3, {"vae": (first, 2)}, (sampled, 0), title)
    board.note(
        """## Steps for each of two models

Press **Run**. *Expert Sigmas* gives the model for high noise and the one for low noise exactly as many steps as you
say, and *Expert Guider* runs both in one sampler, with one noise and one mask.
""",
        """## Try

- **steps** *12, 4*: the first is for the model that starts, and too few are left for the details;
- **cfg** 1 on *Expert*: no negative prompt for low noise, half the cost there;
- **your own models**: Wan 2.2's two, or SDXL base and refiner with a preset in **boundary_unit**.
""",
    )


def style_demo(board: Board) -> None:
    board.wide = 290
    load = board.put("FoveaLoadDemo", 0, variant="CLIP + T5 + style")
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    wanted = encoded(board, 0, "Prompt of the style picture", given["clip"],
                     "a plain orange square and a plain cyan triangle on a gray background, shaded style")  # fmt: skip
    plain = "a plain purple star and a plain green circle on a gray background"
    text = encoded(board, 0, "Prompt", given["clip"], plain)
    given["negative"] = encoded(board, 0, "Empty prompt", given["clip"], "")
    one, four = (board.put("EmptyLatentImage", 0, title, folded=True, width=256, height=256, batch_size=count)
                 for title, count in (("One picture", 1), ("Four pictures", 4)))  # fmt: skip
    given["seed"] = seed(board, 0, 5)
    given["latent"] = four, 0
    reference = show(board, 1, given, "The style picture", beside=0, tall=270, latent=(one, 0), positive=wanted,
                     **DEMO_STEPS)  # fmt: skip
    looked = board.put("CLIPVisionEncode", 1, "CLIP Vision Encode (or Load Image)", folded=True,
                       clip_vision=(load, 3), image=reference, crop="center")  # fmt: skip
    styled = board.put("unCLIPConditioning", 1, "Prompt with style", conditioning=text, clip_vision_output=(looked, 0),
                       strength=1.0, noise_augmentation=0.0), 0  # fmt: skip
    guided = board.put("FoveaStyleGuidance", 2, tint="ours", model=given["model"], without_style=text, style_scale=8.0,
                       start_percent=0.0)  # fmt: skip
    show(board, 3, given, "Without style", positive=text, tall=300, **DEMO_STEPS)
    show(board, 3, given, "With style", positive=styled, model=(guided, 0), tall=300, **DEMO_STEPS)
    guider = board.put("FoveaStyleGuider", 2, tint="ours", model=given["model"], positive=styled, without_style=text,
                       negative=given["negative"], cfg=4.0, style_scale=8.0, start_percent=0.3)  # fmt: skip
    noise = board.put("RandomNoise", 2, folded=True, noise_seed=given["seed"])
    sampler = board.put("KSamplerSelect", 2, folded=True, sampler_name="euler")
    sigmas = board.put("BasicScheduler", 2, folded=True, model=given["model"], scheduler="normal", steps=20)
    sampled = board.put("SamplerCustomAdvanced", 5, "Style from 0.3 on", noise=(noise, 0), guider=(guider, 0),
                        sampler=(sampler, 0), sigmas=(sigmas, 0), latent_image=given["latent"])  # fmt: skip
    pictures(board, 5, given, (sampled, 0), "Style from 0.3 on", beside=0, tall=300)
    board.note(
        """## Style from a picture, with a scale of its own

Press **Run**. The first sampler makes the style picture. *CLIP Vision Encode* sees it, *unCLIPConditioning* adds it to
the prompt. *Style Guidance* guides by the text with the sampler's CFG, and by the style with **style_scale**: the small
model takes the style on in about half of its pictures.
""",
        """## Try

- **style_scale** 0, 4, 12: from no style to the style before everything;
- **start_percent** 0.3, as in *Style Guider*, whose picture is the last: the layout is made without the style;
- another style in the first prompt: flat, outlined, shaded, glowing;
- **your own model**: an unCLIP checkpoint (SD 2.1 unclip), Flux Redux, or a model with IPAdapter.
""",
    )


def encoders_demo(board: Board) -> None:
    load = board.put("FoveaLoadDemo", 0, variant="CLIP + T5 + style")
    for_clip = written(board, 0, "The prompt for CLIP", "a plain orange circle and a plain blue cross on a white "
                       "background, flat style")  # fmt: skip
    for_t5 = written(board, 0, "The prompt for T5", "a plain green star and a plain pink heart on a black background, "
                     "flat style")  # fmt: skip
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    given["negative"] = encoded(board, 0, "Empty prompt", given["clip"], "")
    given["latent"] = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=4), 0
    given["seed"] = seed(board, 0, 5)
    for curves in ("eDiff-I", "CLIP only"):
        schedule = board.put("FoveaEncoderSchedule", 1, f"Encoder Schedule: {curves}", "ours", clip=given["clip"],
                             clip_prompt=for_clip, t5_prompt=for_t5, curves=curves)  # fmt: skip
        show(board, 2, given, curves, positive=(schedule, 0), **DEMO_STEPS)
        board.put("PreviewImage", 4, f"Weights: {curves}", images=(schedule, 1))
    board.note(
        """## Two text encoders, weighted by noise level

Press **Run**. This variant of the demo model reads a prompt through CLIP and one through a small T5. *Encoder Schedule*
gives each a weight over the schedule. Above: CLIP fades, T5 stays, as eDiff-I's figure of attention suggests. Below:
CLIP alone. The two prompts differ here so that you see which encoder speaks; usually **prompt** goes to both.
""",
        """## Try

- the same text in both, with another style for CLIP;
- **curves** *T5 only* or *T5 first*; *custom* with **clip_curve** `0:0, 0.5:1`;
- **your own model**: SD3, Flux or HiDream with *Load CLIP (Dual)* or *Load CLIP (Triple)*. A step costs what it costs
without the node.
""",
    )
