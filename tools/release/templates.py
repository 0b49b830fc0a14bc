"""Writes the templates for real checkpoints (workflows/*_sd15.json and so on): `python -m tools.release.templates`.

Nodes, slots and widgets are asked from a server, so they fit the schemas; most of the demo model's are drawn by hand.
Thumbnails show the graph in the editor (`make thumbnails` draws them too): no checkpoint is here to make pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..comfy.api import Client
from ..comfy.host import ROOT
from ..comfy.server import temporary
from ..comfy.workflow import Workflow
from .board import Board

HUB = "https://huggingface.co/"
FILES = {
    "v1-5-pruned-emaonly-fp16.safetensors": ("checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"),
    "sd_xl_base_1.0.safetensors": ("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"),
    "sd_xl_refiner_1.0.safetensors": ("checkpoints", "stabilityai/stable-diffusion-xl-refiner-1.0/resolve/main/"),
    "sd3.5_large_fp8_scaled.safetensors": ("checkpoints", "Comfy-Org/stable-diffusion-3.5-fp8/resolve/main/"),
    "flux1-schnell-fp8.safetensors": ("checkpoints", "Comfy-Org/flux1-schnell/resolve/main/"),
    "flux1-dev-fp8.safetensors": ("checkpoints", "Comfy-Org/flux1-dev/resolve/main/"),
    "flux1-redux-dev.safetensors": ("style_models", "Comfy-Org/Flux1-Redux-Dev/resolve/main/"),
    "sigclip_vision_patch14_384.safetensors": ("clip_vision", "Comfy-Org/sigclip_vision_384/resolve/main/"),
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": (
        "diffusion_models", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/diffusion_models/"),
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": (
        "diffusion_models", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/diffusion_models/"),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (
        "text_encoders", "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders/"),
    "wan_2.1_vae.safetensors": (
        "vae", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/vae/"),
}  # fmt: skip
SD15, SDXL, SD35 = (
    "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors", "sd3.5_large_fp8_scaled.safetensors",
)  # fmt: skip
FLUX = "flux1-schnell-fp8.safetensors"
FLUX_STEPS: dict[str, Any] = {"steps": 4, "sampler": "euler", "scheduler": "simple"}
SCENE = "a lighthouse on a cliff above a stormy sea, oil painting"
PLACES = """[
  {"bbox": [100, 250, 560, 500], "desc": "a red balloon"},
  {"bbox": [520, 560, 960, 960], "desc": "a brown dog"}
]"""
PLACED = "a red balloon and a brown dog on a meadow, photograph"


def models(*names: str) -> list[dict[str, str]]:
    """What the editor offers to download where a file is missing."""
    return [{"name": name, "url": f"{HUB}{FILES[name][1]}{name}", "directory": FILES[name][0]} for name in names]


def start(board: Board, file: str, size: int, text: str | None, batch: int = 1) -> dict[str, tuple[int, int]]:
    """Checkpoint, prompts and latent in the first column. -> what they give. text None: prompts come from elsewhere."""
    load = board.put("CheckpointLoaderSimple", 0, models=models(file), ckpt_name=file)
    found = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    if text is not None:
        found["positive"] = (board.put("CLIPTextEncode", 0, "Prompt", "prompt", clip=found["clip"], text=text), 0)
        found["negative"] = (board.put("CLIPTextEncode", 0, "Negative prompt", clip=found["clip"], text="blurry"), 0)
    kind = "EmptySD3LatentImage" if file == SD35 or file.startswith("flux") else "EmptyLatentImage"
    found["latent"] = (board.put(kind, 0, width=size, height=size, batch_size=batch), 0)
    found["seed"] = (board.put("PrimitiveInt", 0, "Seed for all", "shared", value=7), 0)
    return found


def show(board: Board, column: int, given: dict[str, tuple[int, int]], title: str, steps: int = 25, cfg: float = 6.0,
         sampler: str = "dpmpp_2m", scheduler: str = "karras", **changed: tuple[int, int]) -> None:  # fmt: skip
    """Sample, decode, preview. changed: in place of what is given."""
    given = {**given, **changed}
    sampled = board.put(
        "KSampler", column, title, model=given["model"], positive=given["positive"], negative=given["negative"],
        latent_image=given["latent"], seed=given["seed"], steps=steps, cfg=cfg, sampler_name=sampler,
        scheduler=scheduler,
    )  # fmt: skip
    decoded = board.put("VAEDecode", column, samples=(sampled, 0), vae=given["vae"])
    board.put("PreviewImage", column + 1, title, images=(decoded, 0))


def sag(board: Board, file: str, size: int, scale: float, flow: bool = False) -> None:
    given = start(board, file, size, SCENE)
    guided = board.put("FoveaSelfAttentionGuidance", 1, color="ours", model=given["model"], scale=scale)
    how: dict[str, Any] = {"sampler": "euler", "scheduler": "simple", "cfg": 4.5} if flow else {}
    show(board, 2, given, "Without", **how)
    show(board, 2, given, "With Self-Attention Guidance", model=(guided, 0), **how)
    board.note(f"""## Self-Attention Guidance

The same seed without and with guidance by the model's own attention, on {file}. It costs about half as much time again.

**Try**
- **scale** 0.25 to 1.0, **blur_sigma** 2 to 4;
- **mask_mode** *global*: blur guidance, without attention;
- an empty prompt and CFG 1: it needs none.
""")


def with_and_without(
    board: Board, given: dict[str, tuple[int, int]], steer: int, prompt: str, title: str, **how: Any
) -> None:
    """Pictures of the prompt by itself, and of a region node's model and prompts. title: of the second."""
    plain = board.put("CLIPTextEncode", 2, "The prompt without regions", clip=given["clip"], text=prompt)
    negative = (steer, 2)
    show(board, 3, {**given, "positive": (plain, 0), "negative": negative}, "Without regions", **how)
    show(board, 3, {**given, "model": (steer, 0), "positive": (steer, 1), "negative": negative}, title, **how)


def regions(board: Board, file: str, size: int, cfg: float = 6.0, **how: Any) -> None:
    given = start(board, file, size, None)
    text = board.put("PrimitiveStringMultiline", 0, "Two boxes in thousandths: top, left, bottom, right", "prompt",
                     value=PLACES)  # fmt: skip
    boxes = board.put("FoveaRegionsFromBoxes", 1, boxes=(text, 0), width=size, height=size)
    board.put("FoveaRegionPreview", 1, "Where", regions=(boxes, 0), width=size, height=size)
    steer = board.put("FoveaDenseDiffusion", 2, color="ours", model=given["model"], clip=given["clip"],
                      regions=(boxes, 0), prompt=PLACED)  # fmt: skip
    with_and_without(board, given, steer, PLACED, "With regions", cfg=cfg, **how)
    board.note(f"""## Regions with a prompt each

Two boxes, each with what shall be there, on {file}. The attention of the model is steered in the first part of the
schedule; no further evaluation is needed.

**Try**
- other boxes and prompts, or **Region Painter** in their place;
- **cross_strength** up or down, **end_percent** longer;
- **Paint with Words** in the place of DenseDiffusion.
""")


def latent(board: Board, file: str, size: int, cfg: float = 6.0) -> None:
    given = start(board, file, size, SCENE)
    scorer = board.put("FoveaLoadScorer", 1)
    found = board.put(
        "FoveaOptimizeLatent", 1, color="ours", model=given["model"], vae=given["vae"], positive=given["positive"],
        negative=given["negative"], latent_image=given["latent"], scorer=(scorer, 0), prompt=SCENE, seed=given["seed"],
        cfg=cfg, steps=20,
    )  # fmt: skip
    show(board, 2, given, "The same noise, not optimized", 20, cfg, "euler", "normal")
    board.put("PreviewImage", 3, "Optimized", images=(found, 2))
    board.put("PreviewImage", 3, "Losses", images=(found, 3))
    board.note(f"""## Optimize the starting noise

The noise is changed until a CLIP says that the picture fits the prompt, on {file}.

**First** put a CLIP in open_clip's format (ViT-B-32 and larger, or HPS v2) into *models/scorers* and choose it in *Load
Scorer*: ShapesWorld's own knows nothing but shapes.

**Try**
- more **candidates** and **iterations**: time is their number times that of a picture;
- **salient_weight** 0 to 1: the whole picture, or the parts that people look at.
""")


def experts_sdxl(board: Board) -> None:
    base, refiner = SDXL, "sd_xl_refiner_1.0.safetensors"
    given = start(board, base, 1024, SCENE)
    second = board.put("CheckpointLoaderSimple", 0, models=models(refiner), ckpt_name=refiner)
    own = [board.put("CLIPTextEncodeSDXLRefiner", 1, name, clip=(second, 1), text=text, ascore=score, width=1024,
                     height=1024) for name, text, score in (("Refiner's prompt", SCENE, 6.0),
                                                            ("Refiner's negative prompt", "blurry", 2.5))]  # fmt: skip
    expert = board.put("FoveaExpert", 1, color="ours", model=(second, 0), boundary_unit="SDXL refiner",
                       positive=(own[0], 0), negative=(own[1], 0))  # fmt: skip
    switch = board.put("FoveaExpertSwitch", 2, color="ours", model=given["model"], experts=(expert, 0))
    board.put("PreviewAny", 2, "Who acts where", source=(switch, 1))
    show(board, 3, given, "Base alone")
    show(board, 3, given, "Base, then refiner", model=(switch, 0))
    board.note("""## SDXL base and refiner in one run

*Expert* takes over below the refiner's noise level, with prompts of its own encoder. One KSampler, one noise, one
schedule; masks stay exact and samplers keep their history.

**Try**
- **blend** 0.5: both are mixed around the border;
- **memory** *unload* where both do not fit at once.
""")


def experts_wan(board: Board) -> None:
    high, low = (f"wan2.2_t2v_{part}_noise_14B_fp8_scaled.safetensors" for part in ("high", "low"))
    encoder, coder = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan_2.1_vae.safetensors"
    first = board.put("UNETLoader", 0, "High noise", models=models(high), unet_name=high)
    second = board.put("UNETLoader", 0, "Low noise", models=models(low), unet_name=low)
    clip = board.put("CLIPLoader", 0, models=models(encoder), clip_name=encoder, type="wan")
    vae = board.put("VAELoader", 0, models=models(coder), vae_name=coder)
    shifted = [board.put("ModelSamplingSD3", 1, model=(model, 0), shift=12.0) for model in (first, second)]
    positive = board.put("CLIPTextEncode", 1, "Prompt", "prompt", clip=(clip, 0), text="waves break on a cliff")
    negative = board.put("CLIPTextEncode", 1, "Negative prompt", clip=(clip, 0), text="still picture, blurry")
    video = board.put("EmptyHunyuanLatentVideo", 1, width=640, height=640, length=33)
    expert = board.put("FoveaExpert", 2, color="ours", model=(shifted[1], 0), boundary_unit="Wan 2.2 T2V, low noise")
    switch = board.put("FoveaExpertSwitch", 2, color="ours", model=(shifted[0], 0), experts=(expert, 0))
    board.put("PreviewAny", 2, "Who acts where", source=(switch, 1))
    sampled = board.put("KSampler", 3, "One run", model=(switch, 0), positive=(positive, 0), negative=(negative, 0),
                        latent_image=(video, 0), seed=7, steps=20, cfg=4.0, sampler_name="euler",
                        scheduler="simple")  # fmt: skip
    frames = board.put("VAEDecode", 3, samples=(sampled, 0), vae=(vae, 0))
    board.put("PreviewImage", 4, "Frames", images=(frames, 0))
    board.note("""## Wan 2.2's two models in one run

The model for high noise begins; below the level at which Wan was trained to change, the other takes over with its own
CFG (the preset knows both). One KSampler in place of two in a row: multistep and SDE samplers stay whole.

**Try**
- a 4-step LoRA on each model, **cfg** 1 on *Expert* and the sampler;
- **memory** *unload* on small cards.
""")


def encoders(board: Board, file: str, size: int, cfg: float, size_of_step: int = 25) -> None:
    given = start(board, file, size, None)
    empty = board.put("CLIPTextEncode", 0, "Negative prompt", clip=given["clip"], text="")
    how: dict[str, Any] = {"sampler": "euler", "scheduler": "simple"} if file != SDXL else {}
    for column, curves in ((1, "eDiff-I"), (2, "T5 first")):
        schedule = board.put("FoveaEncoderSchedule", column, f"Encoder Schedule: {curves}", "ours", clip=given["clip"],
                             prompt=SCENE, curves=curves)  # fmt: skip
        board.put("PreviewImage", column, f"Weights: {curves}", images=(schedule, 1))
        show(board, 3, {**given, "positive": (schedule, 0), "negative": (empty, 0)}, curves, size_of_step, cfg, **how)
    board.note(f"""## Text encoders weighted by noise level

{file} has several text encoders. *eDiff-I*: CLIP fades, the other stays to the end. *T5 first*: the other way round (on
SDXL, whose encoders are two CLIPs, CLIP-G is the one that stays). A step costs what it costs without the node.

**Try**
- a prompt for each: **clip_prompt** for the looks, **t5_prompt** for what is where;
- **curves** *curves below* with points of your own.
""")


def style_redux(board: Board) -> None:
    file, redux = "flux1-dev-fp8.safetensors", "flux1-redux-dev.safetensors"
    eyes = "sigclip_vision_patch14_384.safetensors"
    given = start(board, file, 1024, None)
    text = board.put("CLIPTextEncode", 0, "Prompt", "prompt", clip=given["clip"], text=SCENE)
    empty = board.put("CLIPTextEncode", 0, "Negative prompt", clip=given["clip"], text="")
    picture = board.put("LoadImage", 1, "The style picture")
    sees = board.put("CLIPVisionLoader", 1, models=models(eyes), clip_name=eyes)
    seen = board.put("CLIPVisionEncode", 1, clip_vision=(sees, 0), image=(picture, 0))
    loader = board.put("StyleModelLoader", 1, models=models(redux), style_model_name=redux)
    plain = board.put("FluxGuidance", 2, conditioning=(text, 0), guidance=3.5)
    styled = board.put("StyleModelApply", 2, conditioning=(plain, 0), style_model=(loader, 0),
                       clip_vision_output=(seen, 0))  # fmt: skip
    guided = board.put("FoveaStyleGuidance", 2, color="ours", model=given["model"], text=(plain, 0), style_scale=0.6,
                       start_percent=0.2)  # fmt: skip
    how: dict[str, Any] = {"steps": 20, "cfg": 1.0, "sampler": "euler", "scheduler": "simple", "negative": (empty, 0)}
    show(board, 3, given, "Redux as it is", positive=(styled, 0), **how)
    show(board, 3, given, "Redux with a scale and a window", positive=(styled, 0), model=(guided, 0), **how)
    board.note("""## Flux Redux with a scale and a window of its own

Redux tends to override the prompt. *Style Guidance* goes from the text to the text with style by **style_scale**, and
only from **start_percent** on: the prompt lays the picture out, the style picture colors it.

**Try**
- **style_scale** 0 (none) to 1 (with **start_percent** 0: as Redux alone);
- **start_percent** 0 to 0.5.

Choose a style picture in *Load Image* first.
""")


HALVES = """[
  {"bbox": [0, 0, 1000, 500], "desc": "LEFT"},
  {"bbox": [0, 500, 1000, 1000], "desc": "RIGHT"}
]"""


def region_loras(board: Board, given: dict[str, tuple[int, int]], size: int, halves: dict[str, str]) -> tuple[int, int]:
    """Two halves with a LoRA each -> the model. halves: by their names, left and right: the LoRA."""
    left, right = halves
    text = board.put("PrimitiveStringMultiline", 0, "Two halves in thousandths: top, left, bottom, right", "prompt",
                     value=HALVES.replace("LEFT", left).replace("RIGHT", right))  # fmt: skip
    regions = (board.put("FoveaRegionsFromBoxes", 1, boxes=(text, 0), width=size, height=size), 0)
    for number, (name, lora) in enumerate(halves.items(), 1):
        given_one: dict[str, Any] = {"regions": regions, "region": str(number), "lora": lora}
        regions = (board.put("FoveaAddRegionLora", 1, f"LoRA of the {name}", **given_one), 0)
    return board.put("FoveaRegionLora", 2, color="ours", model=given["model"], regions=regions), 0


def region_lora_demo(board: Board) -> None:
    things = "a plain red star, a striped green heart, a plain blue circle and a dotted orange square"
    load = board.put("FoveaLoadDemo", 0)
    given = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    given["positive"] = (board.put("CLIPTextEncode", 0, "Prompt", "prompt", clip=given["clip"],
                                   text=f"{things} on a white background"), 0)  # fmt: skip
    given["negative"] = (board.put("CLIPTextEncode", 0, "Empty prompt", clip=given["clip"], text=""), 0)
    given["latent"] = (board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=4), 0)
    given["seed"] = (board.put("PrimitiveInt", 0, "Seed for all", "shared", value=7), 0)
    styles = {"left half": "ShapesWorld: shaded", "right half": "ShapesWorld: outlined"}
    model = region_loras(board, given, 256, styles)
    how: dict[str, Any] = {"steps": 20, "cfg": 4.0, "sampler": "euler", "scheduler": "normal"}
    show(board, 3, given, "Without LoRAs", **how)
    show(board, 3, given, "A LoRA per half", model=model, **how)
    board.note("""## A LoRA per region

Two LoRAs that ship for the demo model: *shaded* acts in the left half, *outlined* in the right one. Nothing is
evaluated twice.

**Try**
- **region** of a LoRA node: a number, a part of a prompt, or empty for all;
- **strength_model** 0.5, or 1.5;
- **Region Painter** in the place of the boxes;
- **common** 0: words that belong to no region take no LoRA.
""")


def region_lora(board: Board, file: str, size: int) -> None:
    words = "two friends at a table in a cafe, photograph"
    given = start(board, file, size, words)
    model = region_loras(board, given, size, {"friend on the left": "none", "friend on the right": "none"})
    show(board, 3, given, "Without LoRAs")
    show(board, 3, given, "A LoRA per half", model=model)
    board.note(f"""## A LoRA per region

Two people, each from a LoRA of their own, on {file}: left and right half. Nothing is evaluated twice.

**First** choose a LoRA in both *Add LoRA to Region* nodes, and put their trigger words into the prompt.

**Try**
- **Dense Diffusion** in the place of *Region LoRA*, with a prompt for each half: each region's words then take its own
  LoRA only, and each LoRA's text encoder its own words;
- **common** 0: what has no place takes none.
""")


def layout_prompt(board: Board) -> None:
    places = "left third: a lighthouse on a cliff\nright half: a sailing ship\ntop third: storm clouds"
    regions = board.put("FoveaRegionsFromText", 0, color="ours", text=places)
    board.put("FoveaRegionPreview", 1, "Where", regions=(regions, 0), width=1024, height=1024)
    written = board.put("FoveaRegionsToLayoutPrompt", 1, color="ours", regions=(regions, 0))
    board.put("PreviewAny", 2, "For the text encoder", source=(written, 0))
    board.note("""## Layouts that models read themselves

Newer models (FLUX 3, MOSS-Image, Ideogram 4) read boxes in the prompt. Regions of any source are written in their
words; connect the text to the model's text encoder. Here the regions come from places in words.

**Try**
- another **format**;
- **Region Painter** or boxes of a detector in the place of *Regions from Text*;
- *columns 3*, *grid 2x2* or *0.1,0.2,0.5,0.9* as places.
""")


def two_people(board: Board, file: str, size: int, cfg: float = 6.0, **how: Any) -> None:
    """One kind of thing twice, told apart by where it is."""
    whole = "a woman with red hair and a man with a grey beard, portrait photograph, cafe"
    given = start(board, file, size, None)
    places = "left half: a woman with red hair\nright half: a man with a grey beard"
    regions = board.put("FoveaRegionsFromText", 1, text=places)
    steer = board.put("FoveaDenseDiffusion", 2, color="ours", model=given["model"], clip=given["clip"],
                      regions=(regions, 0), prompt=whole)  # fmt: skip
    with_and_without(board, given, steer, whole, "Each in a half", cfg=cfg, **how)
    board.note(f"""## Two people, two looks

Each half of the picture has its own words, so that hair and beard stay with whom they belong to, on {file}.

**Try**
- **Add LoRA to Region** behind *Regions from Text*: a LoRA for each person;
- **end_percent** 0.7 if looks still mix, **method** *hard*;
- other places: *left third*, *0.1,0.1,0.5,0.9*.
""")


TEMPLATES: dict[str, Callable[[Board], None]] = {
    "sag_sd15": lambda board: sag(board, SD15, 512, 0.75),
    "sag_sdxl": lambda board: sag(board, SDXL, 1024, 0.5),
    "sag_sd35": lambda board: sag(board, SD35, 1024, 0.5, flow=True),
    "regions_sd15": lambda board: regions(board, SD15, 512),
    "regions_sdxl": lambda board: regions(board, SDXL, 1024),
    "regions_flux": lambda board: regions(board, FLUX, 1024, 1.0, **FLUX_STEPS),
    "latent_sd15": lambda board: latent(board, SD15, 512),
    "latent_sdxl": lambda board: latent(board, SDXL, 1024),
    "latent_sd35": lambda board: latent(board, SD35, 1024, 4.5),
    "experts_sdxl": experts_sdxl,
    "experts_wan22": experts_wan,
    "encoders_sdxl": lambda board: encoders(board, SDXL, 1024, 6.0),
    "encoders_sd35": lambda board: encoders(board, SD35, 1024, 4.5),
    "encoders_flux": lambda board: encoders(board, FLUX, 1024, 1.0, 4),
    "style_redux": style_redux,
    "region_lora_demo": region_lora_demo,
    "region_lora_sdxl": lambda board: region_lora(board, SDXL, 1024),
    "layout_prompt": layout_prompt,
    "two_people_sdxl": lambda board: two_people(board, SDXL, 1024),
    "two_people_flux": lambda board: two_people(board, FLUX, 1024, 1.0, **FLUX_STEPS),
}  # fmt: skip


def drawn(info: dict[str, Any]) -> dict[str, Workflow]:
    """All of them, by their names. info: of the server's nodes."""
    found = {}
    for number, (name, draw) in enumerate(TEMPLATES.items()):
        board = Board(info)
        draw(board)
        found[name] = board.workflow(f"6d0f5d0e-6f0a-4c9e-9d55-5a6a5e5f01{number:02d}")
    return found


def main() -> None:
    with temporary("templates") as server:
        info = Client(server.address).json("/object_info")
    for name, made in drawn(info).items():
        (ROOT / "workflows" / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
