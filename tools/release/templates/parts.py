"""What several templates share: the files of real checkpoints, the first column, the sampler with its picture."""

from __future__ import annotations

from typing import Any

from ..board import Board

Output = tuple[int, int]  # a node and one of its outputs

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
    "clip_vision_g.safetensors": ("clip_vision", "comfyanonymous/clip_vision_g/resolve/main/"),
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
DEMO_STEPS: dict[str, Any] = {"steps": 20, "cfg": 4.0, "sampler": "euler", "scheduler": "normal"}
THREE_THINGS = "a plain red star, a striped green heart and a plain blue circle"


def models(*names: str) -> list[dict[str, str]]:
    """What the editor offers to download where a file is missing."""
    return [{"name": name, "url": f"{HUB}{FILES[name][1]}{name}", "directory": FILES[name][0]} for name in names]


def encoded(board: Board, column: int, title: str, clip: Output, text: str | Output) -> Output:
    """A prompt; the empty one is folded. text: itself, or the node that gives it."""
    return board.put("CLIPTextEncode", column, title, "prompt" if text else None, tall=90 if text else 60,
                     folded=not text, clip=clip, text=text), 0  # fmt: skip


def seed(board: Board, column: int, value: int = 7) -> Output:
    return board.put("PrimitiveInt", column, "Seed for all", "shared", value=value), 0


def written(board: Board, column: int, title: str, text: str, tall: float = 110) -> Output:
    """A text that several nodes take."""
    return board.put("PrimitiveStringMultiline", column, title, "shared", tall=tall, value=text), 0


def start(board: Board, file: str, size: int, text: str | None, batch: int = 1) -> dict[str, Output]:
    """Checkpoint, prompts and latent in the first column. -> what they give. text None: prompts come from elsewhere."""
    load = board.put("CheckpointLoaderSimple", 0, models=models(file), ckpt_name=file)
    found = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2)}
    if text is not None:
        found["positive"] = encoded(board, 0, "Prompt", found["clip"], text)
        found["negative"] = encoded(board, 0, "Negative prompt", found["clip"], "blurry")
    kind = "EmptySD3LatentImage" if file == SD35 or file.startswith("flux") else "EmptyLatentImage"
    found["latent"] = (board.put(kind, 0, width=size, height=size, batch_size=batch), 0)
    found["seed"] = seed(board, 0)
    return found


def demo(board: Board, text: str | Output | None, batch: int = 4, variant: str = "ShapesWorld", number: int = 7,
         title: str | None = None) -> dict[str, Output]:  # fmt: skip
    """The model in the box in the first column, as `start` has a checkpoint. number: the seed."""
    load = board.put("FoveaLoadDemo", 0, title, variant=variant)
    found = {"model": (load, 0), "clip": (load, 1), "vae": (load, 2), "vision": (load, 3)}
    if text is not None:
        found["positive"] = encoded(board, 0, "Prompt", found["clip"], text)
    found["negative"] = encoded(board, 0, "Empty prompt", found["clip"], "")
    found["latent"] = (board.put("EmptyLatentImage", 0, width=256, height=256, batch_size=batch), 0)
    found["seed"] = seed(board, 0, number)
    return found


def show(board: Board, column: int, given: dict[str, Output], title: str, steps: int = 25, cfg: float = 6.0,
         sampler: str = "dpmpp_2m", scheduler: str = "karras", denoise: float = 1.0, beside: int = 1,
         tall: float | None = None, **changed: Output) -> Output:  # fmt: skip
    """Sample, decode, preview. changed: in place of what is given. beside: how far right of it the preview is.

    -> the pictures.
    """
    given = {**given, **changed}
    sampled = board.put(
        "KSampler", column, title, model=given["model"], positive=given["positive"], negative=given["negative"],
        latent_image=given["latent"], seed=given["seed"], steps=steps, cfg=cfg, sampler_name=sampler,
        scheduler=scheduler, denoise=denoise,
    )  # fmt: skip
    return pictures(board, column, given, (sampled, 0), title, beside, tall)


def pictures(board: Board, column: int, given: dict[str, Output], samples: Output, title: str, beside: int = 1,
             tall: float | None = None) -> Output:  # fmt: skip
    """Decode below the sampler, preview beside it. -> the pictures."""
    decoded = board.put("VAEDecode", column, folded=True, samples=samples, vae=given["vae"]), 0
    board.put("PreviewImage", column + beside, title, tall=tall, images=decoded)
    return decoded


def seen(board: Board, column: int, node: int, slot: int, title: str, **how: Any) -> None:
    """A preview of a node's pictures, where it does not show them itself."""
    if not board.shows_pictures(board.nodes[node - 1]["type"]):
        board.put("PreviewImage", column, title, images=(node, slot), **how)


def with_and_without(
    board: Board, given: dict[str, Output], steer: int, prompt: str | Output, title: str, **how: Any
) -> None:
    """Pictures of the prompt by itself, and of a region node's model and prompts. title: of the second."""
    plain = encoded(board, 2, "The prompt without regions", given["clip"], prompt)
    negative = (steer, 2)
    show(board, 3, {**given, "positive": plain, "negative": negative}, "Without regions", **how)
    show(board, 3, {**given, "model": (steer, 0), "positive": (steer, 1), "negative": negative}, title, **how)
