"""Loads the ShapesWorld checkpoint that ships with the pack: checked files in, the host's own model objects out."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from . import judges, scorers, shapesworld

FOLDER = Path(__file__).resolve().parent.parent / "demo"
MANIFEST = "shapesworld.json"
CURE = "Restore it from the Fovea repository (git checkout -- demo/, or install the pack again)."


class DemoFileError(RuntimeError):
    """A shipped file is missing or damaged; the message names the file, the expected hash and the cure."""


def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """What ships: per part its files with hashes, the latent statistics, the token ids of the compact table."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DemoFileError(f"FoveaLoadDemo: cannot read demo/{MANIFEST} ({error}). {CURE}") from error


def load_part(part: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """State dict of one part (`unet`, `vae`, `clip_a`, `clip_b`, `reader`), all its shards checked and merged."""
    state: dict[str, Tensor] = {}
    for name, expected in manifest(folder)["parts"][part].items():
        path = folder / name
        if not path.is_file():
            raise DemoFileError(f"FoveaLoadDemo: demo/{name} is missing (expected sha256 {expected}). {CURE}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise DemoFileError(
                f"FoveaLoadDemo: demo/{name} is damaged: sha256 is {found}, expected {expected}. {CURE}"
            )
        state.update(comfy.utils.load_torch_file(str(path)))
    return state


def load_model(folder: Path = FOLDER, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The generator as a MODEL. disable_dynamic: weights stay where they are loaded, for gradients."""
    facts = manifest(folder)["latents"]
    state = load_part("unet", folder)
    latent = shapesworld.ShapesWorldLatent(facts["scale_factor"], facts["rgb_factors"], facts["rgb_bias"])
    config = shapesworld.ShapesWorldConfig(latent)
    load_device, dtypes = mm.get_torch_device(), list(config.supported_inference_dtypes)
    dtype = mm.unet_dtype(model_params=sum(v.numel() for v in state.values()), supported_dtypes=dtypes)
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, load_device, dtypes))
    model = config.get_model(state, "")
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=mm.unet_offload_device())
    model.load_model_weights(state, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (folder,))  # the host's way to load it anew
    return patcher


def text_state(folder: Path = FOLDER) -> dict[str, Tensor]:
    """CLIP A's text tower under the host's names, its compact token table spread over the tokenizer's whole vocabulary.

    Only the rows of words that captions use are trained and stored; every other token gets the row of the unknown word.
    """
    state, ids = load_part("clip_a", folder), manifest(folder)["token_ids"]
    rows = state["table.weight"]
    table = rows[:1].repeat(shapesworld.TEXT_CONFIG["vocab_size"], 1)
    table[torch.tensor(ids)] = rows[1:]
    text = {"clip_l.transformer." + k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    return {**text, "clip_l.transformer.text_model.embeddings.token_embedding.weight": table}


def load_clip(folder: Path = FOLDER) -> comfy.sd.CLIP:
    """CLIP A's text tower as a CLIP."""
    import folder_paths

    return comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        state_dict=text_state(folder),
        model_options={"clip_l_model_config": dict(shapesworld.TEXT_CONFIG)},
    )


def load_vae(folder: Path = FOLDER) -> comfy.sd.VAE:
    """The autoencoder as a VAE."""
    vae = comfy.sd.VAE(sd=load_part("vae", folder), config={"params": shapesworld.VAE_CONFIG})
    vae.patcher.cached_patcher_init = (_load_vae_patcher, (folder,))
    return vae


def _load_vae_patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_vae(folder).patcher


def _judge(part: str, prefix: str, build, folder: Path) -> torch.nn.Module:
    state = {k.removeprefix(prefix): v.float() for k, v in load_part(part, folder).items() if k.startswith(prefix)}
    module = build(dtype=torch.float32)
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def load_reader(folder: Path = FOLDER) -> judges.Reader:
    return _judge("reader", "reader.", judges.Reader, folder)


def load_clip_a_image(folder: Path = FOLDER) -> judges.ClipAImage:
    return _judge("clip_a", "image.", judges.ClipAImage, folder)


def load_clip_b(folder: Path = FOLDER) -> judges.ClipB:
    return _judge("clip_b", "clip_b.", partial(judges.ClipB, len(manifest(folder)["token_ids"]) + 1), folder)


def load_scorer(clip: Any = None) -> scorers.HostClipScorer:
    """CLIP A as a scorer, with this text encoder, which has its text tower; else with one of its own."""
    return scorers.HostClipScorer("ShapesWorld CLIP A", 128, scorers.patched(load_clip_a_image()), clip or load_clip())
