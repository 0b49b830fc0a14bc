"""Graphs to drop into the editor (docs/graphs): the templates' techniques on other checkpoints, and variants."""

from __future__ import annotations

from typing import Any

from ..board import Board
from .jobs import SCENE
from .parts import (
    DEMO_STEPS,
    SDXL,
    THREE_THINGS,
    Output,
    demo,
    encoded,
    models,
    seed,
    seen,
    show,
    start,
    with_and_without,
    written,
)
from .techniques import region_loras

PLACES = """[
  {"bbox": [100, 250, 560, 500], "desc": "a red balloon"},
  {"bbox": [520, 560, 960, 960], "desc": "a brown dog"}
]"""
PLACED = "a red balloon and a brown dog on a meadow, photograph"


def sag(board: Board, file: str, size: int, scale: float, flow: bool = False) -> None:
    given = start(board, file, size, SCENE)
    guided = board.put("FoveaSelfAttentionGuidance", 1, tint="ours", model=given["model"], scale=scale)
    how: dict[str, Any] = {"sampler": "euler", "scheduler": "simple", "cfg": 4.5} if flow else {}
    show(board, 2, given, "Without", **how)
    show(board, 2, given, "With Self-Attention Guidance", model=(guided, 0), **how)
    board.note(
        f"""## Self-Attention Guidance

The same seed without and with guidance by the model's own attention, on {file}. It costs about half as much time again.
""",
        """## Try

- **scale** 0.25 to 1.0, **blur_sigma** 2 to 4;
- **mask_mode** *global*: blur guidance, without attention;
- an empty prompt and CFG 1: it needs none.
""",
    )


def attention_map(board: Board) -> None:
    prompt = "a striped red circle and a plain blue star on a white background, flat style"
    text = written(board, 0, "The prompt, once", prompt)
    given = demo(board, text, 1)
    picture = len(board.nodes) + 1, 0  # the sampler that comes now
    show(board, 1, given, "The picture", beside=0, **DEMO_STEPS)
    maps = board.put("FoveaAttentionMap", 2, tint="ours", model=given["model"], positive=given["positive"],
                     latent=picture, prompt=text, clip=given["clip"], vae=given["vae"], levels="0.2, 0.5, 0.8",
                     phrase="blue star", point="0.5, 0.5")  # fmt: skip
    seen(board, 3, maps, 0, "Where the model looks", tall=700, wide=620)
    board.note(
        """## Where does the model look?

A picture is sampled, noised again to three levels, and the model is asked once at each. From left to right, less and
less noise:

- **estimate**: what the model thinks the finished picture is;
- **saliency**: how much each place is looked at; **SAG mask**: what Self-Attention Guidance would blur;
- **blue star**: which places attend to these words; **point**: what the middle of the picture attends to.
""",
        """## Try

- another **phrase** of the prompt (the yellow node holds the prompt, for the encoder and for finding the phrase);
- **blocks** `input.4` or `output.3`: an unknown name gives an error that lists the valid ones;
- **levels** `0.05, 0.2, 0.4, 0.6, 0.8, 0.95`;
- **your own model**: *Load Checkpoint*, and its size.
""",
    )


def regions_demo(board: Board) -> None:
    prompt = f"{THREE_THINGS} on a white background, flat style"
    text = written(board, 0, "The prompt, with the regions' prompts in it", prompt)
    given = demo(board, None)
    boxes = written(board, 1, "Boxes: top, left, bottom, right in thousandths", """[
  {"bbox": [60, 60, 480, 480], "desc": "a plain red star"},
  {"bbox": [60, 560, 420, 940], "desc": "a striped green heart"},
  {"bbox": [540, 320, 940, 720], "desc": "a plain blue circle"}
]""")  # fmt: skip
    regions = board.put("FoveaRegionsFromBoxes", 1, boxes=boxes, width=256, height=256)
    preview = board.put("FoveaRegionPreview", 1, regions=(regions, 0), width=256, height=256)
    seen(board, 1, preview, 0, "Where", tall=270)
    steer = board.put("FoveaDenseDiffusion", 2, tint="ours", model=given["model"], clip=given["clip"],
                      regions=(regions, 0), prompt=text)  # fmt: skip
    hinted = board.put("FoveaRegionStart", 2, tint="ours", model=(steer, 0), regions=(regions, 0), background=text)
    plain = encoded(board, 3, "The prompt without regions", given["clip"], text)
    given["negative"] = steer, 2
    show(board, 3, given, "Without regions", positive=plain, **DEMO_STEPS)
    show(board, 3, given, "With regions", positive=(steer, 1), model=(hinted, 0), **DEMO_STEPS)
    board.note(
        """## Say what goes where

Both samplers start from the same noise and the same prompt. The lower one also knows three boxes, each with some words
of the prompt. **Region Start** hints at their colors in the noise, **Dense Diffusion** binds each place to its words.
""",
        """## Try

- move a box: its four numbers are thousandths of the picture;
- **method** *densediffusion* (as published) and *hard*; **cross_strength** from 0 (off) to 4;
- **strength** 0 of *Region Start*: what attention does alone;
- **arranged_noises** 8 and **layout_iterations** 2, without *Region Start*: places from words alone;
- **your own model**: *Load Checkpoint* and its sizes. *Create Bounding Boxes* draws boxes: connect its *elements*.
""",
    )


def regions(board: Board, file: str, size: int, cfg: float = 6.0, **how: Any) -> None:
    given = start(board, file, size, None)
    text = written(board, 0, "Two boxes in thousandths: top, left, bottom, right", PLACES)
    boxes = board.put("FoveaRegionsFromBoxes", 1, boxes=text, width=size, height=size)
    preview = board.put("FoveaRegionPreview", 1, regions=(boxes, 0), width=size, height=size)
    seen(board, 1, preview, 0, "Where")
    steer = board.put("FoveaDenseDiffusion", 2, tint="ours", model=given["model"], clip=given["clip"],
                      regions=(boxes, 0), prompt=PLACED)  # fmt: skip
    with_and_without(board, given, steer, PLACED, "With regions", cfg=cfg, **how)
    board.note(
        f"""## Regions with a prompt each

Two boxes, each with what should be there, on {file}. The attention of the model is steered in the first part of the
schedule; no further evaluation is needed.
""",
        """## Try

- other boxes and prompts, or **Region Painter** in their place;
- **cross_strength** up or down, **end_percent** longer;
- **Paint with Words** in the place of *Dense Diffusion*.
""",
    )


def latent(board: Board, file: str, size: int, cfg: float = 6.0) -> None:
    given = start(board, file, size, SCENE)
    show(board, 1, given, "The same noise, not optimized", 20, cfg, "euler", "normal", beside=2)
    scorer = board.put("FoveaLoadScorer", 1)
    found = board.put(
        "FoveaOptimizeLatent", 2, tint="ours", model=given["model"], vae=given["vae"], positive=given["positive"],
        negative=given["negative"], latent_image=given["latent"], scorer=(scorer, 0), prompt=SCENE, seed=given["seed"],
        cfg=cfg, steps=20,
    )  # fmt: skip
    board.put("PreviewImage", 3, "Optimized", images=(found, 1))
    board.put("PreviewImage", 4, "Losses", images=(found, 4))
    board.note(
        f"""## Optimize the starting noise

The noise is changed until a CLIP says that the picture fits the prompt, on {file}.

**First** put PickScore, a CLIP or HPS v2 into *models/scorers* (see Load Scorer's help page) and choose it in *Load
Scorer*: ShapesWorld's own knows nothing but shapes.
""",
        """## Try

- more **candidates** and **iterations**: time is their number times that of a picture;
- **salient_weight** 0 to 1: the whole picture, or the parts that people look at.
""",
    )


def cascade_demo(board: Board) -> None:
    load = board.put("FoveaLoadDemo", 0, "The model")
    expert = board.put("FoveaLoadDemo", 0, "Its expert for low noise", variant="expert: low noise")
    given: dict[str, Output] = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    text = "a striped purple triangle and a dotted green circle on a tan background, flat style"
    given["positive"] = encoded(board, 0, "Prompt", given["clip"], text)
    given["negative"] = encoded(board, 0, "Empty prompt", given["clip"], "")
    given["latent"] = board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=2), 0
    given["seed"] = seed(board, 0, 5)
    small = len(board.nodes) + 1, 0  # the sampler that comes now
    show(board, 1, given, "256 pixels", beside=2, tall=270, **DEMO_STEPS)
    large = board.put("LatentUpscale", 1, "To 384 pixels", samples=small, upscale_method="bislerp", width=384,
                      height=384)  # fmt: skip
    show(board, 2, given, "384 pixels, by the low-noise expert", model=(expert, 0), latent=(large, 0), denoise=0.5,
         **DEMO_STEPS)  # fmt: skip
    only = board.put("VAEDecode", 2, folded=True, samples=(large, 0), vae=given["vae"])
    board.put("PreviewImage", 2, "Enlarged only", tall=270, images=(only, 0))
    board.note(
        """## From small to large: a model, then its low-noise expert

The model draws 256 pixels; the latent is enlarged to 384; the expert for low noise draws the second half of the
schedule anew at that size. eDiff-I uses super-resolution models in this place; these are not part of Fovea, and this is
only their idea with what there is.
""",
        """## Try

- **denoise** 0.3: closer to the small picture, blurrier; 0.6: sharper, other details;
- 512 pixels: the demo model was trained at 256 and repeats objects when it may change much;
- the model itself in the expert's place;
- **your own models**: SDXL for the small picture and its refiner for the large one.
""",
    )


def experts_sdxl(board: Board) -> None:
    base, refiner = SDXL, "sd_xl_refiner_1.0.safetensors"
    given = start(board, base, 1024, SCENE)
    second = board.put("CheckpointLoaderSimple", 0, models=models(refiner), ckpt_name=refiner)
    own = [board.put("CLIPTextEncodeSDXLRefiner", 1, name, clip=(second, 1), text=text, ascore=score, width=1024,
                     height=1024) for name, text, score in (("Refiner's prompt", SCENE, 6.0),
                                                            ("Refiner's negative prompt", "blurry", 2.5))]  # fmt: skip
    expert = board.put("FoveaExpert", 1, tint="ours", model=(second, 0), boundary_unit="SDXL refiner",
                       positive=(own[0], 0), negative=(own[1], 0))  # fmt: skip
    switch = board.put("FoveaExpertSwitch", 2, tint="ours", model=given["model"], experts=(expert, 0))
    board.put("PreviewAny", 2, "Who acts where", source=(switch, 1))
    show(board, 3, given, "Base alone")
    show(board, 3, given, "Base, then refiner", model=(switch, 0))
    board.note(
        """## SDXL base and refiner in one run

*Expert* takes over below the refiner's noise level, with prompts of its own encoder. One KSampler, one noise, one
schedule; masks stay exact and samplers keep their history.
""",
        """## Try

- **blend** 0.5: both are mixed around the border;
- **memory** *unload* where both do not fit at once.
""",
    )


def encoders(board: Board, file: str, size: int, cfg: float, size_of_step: int = 25) -> None:
    given = start(board, file, size, None)
    given["negative"] = encoded(board, 0, "Negative prompt", given["clip"], "")
    how: dict[str, Any] = {"sampler": "euler", "scheduler": "simple"} if file != SDXL else {}
    for curves in ("eDiff-I", "T5 first"):
        schedule = board.put("FoveaEncoderSchedule", 1, f"Encoder Schedule: {curves}", "ours", clip=given["clip"],
                             prompt=SCENE, curves=curves)  # fmt: skip
        show(board, 2, given, curves, size_of_step, cfg, positive=(schedule, 0), **how)
        board.put("PreviewImage", 4, f"Weights: {curves}", images=(schedule, 1))
    board.note(
        f"""## Text encoders weighted by noise level

{file} has several text encoders. *eDiff-I*: CLIP fades, the other stays to the end. *T5 first*: the other acts
throughout, CLIP comes in over the first 70 % (on SDXL, whose encoders are two CLIPs, CLIP-G is the one that stays). A
step costs what it costs without the node.
""",
        """## Try

- a prompt for each: **clip_prompt** for the looks, **t5_prompt** for what is where;
- **curves** *custom* with points of your own.
""",
    )


def style_redux(board: Board) -> None:
    file, redux = "flux1-dev-fp8.safetensors", "flux1-redux-dev.safetensors"
    eyes = "sigclip_vision_patch14_384.safetensors"
    given = start(board, file, 1024, None)
    text = encoded(board, 0, "Prompt", given["clip"], SCENE)
    empty = encoded(board, 0, "Negative prompt", given["clip"], "")
    picture = board.put("LoadImage", 1, "The style picture", tall=270)
    sees = board.put("CLIPVisionLoader", 1, models=models(eyes), clip_name=eyes)
    looked = board.put("CLIPVisionEncode", 1, clip_vision=(sees, 0), image=(picture, 0))
    loader = board.put("StyleModelLoader", 1, models=models(redux), style_model_name=redux)
    plain = board.put("FluxGuidance", 2, conditioning=text, guidance=3.5)
    styled = board.put("StyleModelApply", 2, conditioning=(plain, 0), style_model=(loader, 0),
                       clip_vision_output=(looked, 0))  # fmt: skip
    guided = board.put("FoveaStyleGuidance", 2, tint="ours", model=given["model"], without_style=(plain, 0),
                       style_scale=0.6, start_percent=0.2)  # fmt: skip
    how: dict[str, Any] = {"steps": 20, "cfg": 1.0, "sampler": "euler", "scheduler": "simple", "negative": empty}
    show(board, 3, given, "Redux as it is", positive=(styled, 0), **how)
    show(board, 3, given, "Redux with a scale and a window", positive=(styled, 0), model=(guided, 0), **how)
    board.note(
        """## Flux Redux with a scale and a window of its own

Redux tends to override the prompt. *Style Guidance* goes from the text to the text with style by **style_scale**, and
only from **start_percent** on: the prompt lays the picture out, the style picture colors it.
""",
        """## Try

- **style_scale** 0 (none) to 1 (with **start_percent** 0: as Redux alone);
- **start_percent** 0 to 0.5.

Choose a style picture in *Load Image* first.
""",
    )


def region_lora(board: Board, file: str, size: int) -> None:
    words = "two friends at a table in a cafe, photograph"
    given = start(board, file, size, words)
    model = region_loras(board, given, size, {"friend on the left": "none", "friend on the right": "none"})
    show(board, 3, given, "Without LoRAs")
    show(board, 3, given, "A LoRA per half", model=model)
    board.note(
        f"""## A LoRA per region

Two people, each from a LoRA of their own, on {file}: left and right half. Nothing is evaluated twice.

**First** choose a LoRA in both *Add LoRA to Region* nodes, and put their trigger words into the prompt.
""",
        """## Try

- **Dense Diffusion** in the place of *Region LoRA*, with a prompt for each half: each region's words then take its own
LoRA only, and each LoRA's text encoder its own words;
- **common** 0: what has no place takes none.
""",
    )


def layout_prompt(board: Board) -> None:
    places = "left third: a lighthouse on a cliff\nright half: a sailing ship\ntop third: storm clouds"
    regions = board.put("FoveaRegionsFromText", 0, tint="ours", text=places)
    preview = board.put("FoveaRegionPreview", 1, regions=(regions, 0), width=1024, height=1024)
    seen(board, 1, preview, 0, "Where")
    text = board.put("FoveaRegionsToLayoutPrompt", 2, tint="ours", regions=(regions, 0))
    board.put("PreviewAny", 3, "For the text encoder", source=(text, 0))
    board.note(
        """## Layouts that models read themselves

Newer models (FLUX 3, MOSS-Image, Ideogram 4) read boxes in the prompt. Regions of any source are written in their
words; connect the text to the model's text encoder. Here the regions come from places in words.
""",
        """## Try

- another **format**;
- **Region Painter** or boxes of a detector in the place of *Regions from Text*;
- *column 2 of 3: a lamp*, *columns: a cat | a dog* or *0.1,0.2,0.5,0.9: a vase* as lines.
""",
    )


def two_people(board: Board, file: str, size: int, cfg: float = 6.0, **how: Any) -> None:
    """One kind of thing twice, told apart by where it is."""
    whole = "a woman with red hair and a man with a grey beard, portrait photograph, cafe"
    given = start(board, file, size, None)
    places = "left half: a woman with red hair\nright half: a man with a grey beard"
    regions = board.put("FoveaRegionsFromText", 1, text=places)
    steer = board.put("FoveaDenseDiffusion", 2, tint="ours", model=given["model"], clip=given["clip"],
                      regions=(regions, 0), prompt=whole)  # fmt: skip
    with_and_without(board, given, steer, whole, "Each in a half", cfg=cfg, **how)
    board.note(
        f"""## Two people, two looks

Each half of the picture has its own words, so that hair and beard stay with whom they belong to, on {file}.
""",
        """## Try

- **Add LoRA to Region** behind *Regions from Text*: a LoRA for each person;
- **end_percent** 0.7 if looks still mix, **method** *hard*;
- other places: *left third*, *0.1,0.1,0.5,0.9*.
""",
    )
