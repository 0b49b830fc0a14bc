"""Loads the ShapesWorld checkpoint that ships with the pack: checked files in, ComfyUI's own model objects out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ..scorers import comfy_clip
from . import dual_encoder, evaluators, transformer
from . import generator as shapesworld

FOLDER = Path(__file__).resolve().parents[2] / "demo"
MANIFEST = "shapesworld.json"
TOKEN_TABLE = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
CURE = "Restore it from the Fovea repository (git checkout -- demo/, or install the pack again)."


class DemoFileError(RuntimeError):
    """A shipped file is missing or damaged; the message names the file, the expected hash and the cure."""


def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    """What ships: per part its files with hashes, the latent statistics, the token ids of the compact table."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        told["parts"].keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DemoFileError(f"ShapesWorld: cannot read demo/{MANIFEST} ({error}). {CURE}") from error
    return told


def load_part(part: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """State dict of one part (`unet`, `vae`, `clip_a`, `clip_b`, `reader`; as changes of the first `expert_high`,
    `expert_low`, `dual`, `steered`; `dit`), all its shards checked and merged. It must be of the parts that it was
    trained on top of."""
    state: dict[str, Tensor] = {}
    told = manifest(folder)
    parts, below = told["parts"], told.get("trained_on", {}).get(part, {})
    if part not in parts or any(parts.get(name) != files for name, files in below.items()):
        raise DemoFileError(f"ShapesWorld: demo/{MANIFEST} has no {part!r} for this generator. {CURE}")
    for name, expected in parts[part].items():
        path = folder / name
        if not path.is_file():
            raise DemoFileError(f"ShapesWorld: demo/{name} is missing (expected sha256 {expected}). {CURE}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != expected:
            raise DemoFileError(f"ShapesWorld: demo/{name} is damaged: sha256 is {digest}, expected {expected}. {CURE}")
        state.update(comfy.utils.load_torch_file(str(path)))
    return state


def picture_means(folder: Path = FOLDER) -> tuple[tuple[float, ...], ...]:
    """Mean latents of some painted pictures, a value per channel: what the noisiest training samples began with.

    Raises DemoFileError.
    """
    found = manifest(folder).get("picture_means")
    if not found:
        raise DemoFileError(f"ShapesWorld: demo/{MANIFEST} has no means of pictures. {CURE}")
    return tuple(map(tuple, found))


def load_model(folder: Path = FOLDER, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The generator as a MODEL. disable_dynamic: weights stay where they are loaded, for gradients."""
    patcher = _patcher(shapesworld.ShapesWorldConfig, load_part("unet", folder), folder, disable_dynamic)
    patcher.cached_patcher_init = (load_model, (folder,))  # ComfyUI's way to load it anew
    return patcher


def _patcher(config_type: Any, state: dict[str, Tensor], folder: Path, fixed: bool) -> comfy.model_patcher.ModelPatcher:
    facts = manifest(folder)["latents"]
    latent = shapesworld.ShapesWorldLatent(facts["scale_factor"], facts["rgb_factors"], facts["rgb_bias"])
    config = config_type(latent)
    load_device, dtypes = mm.get_torch_device(), list(config.supported_inference_dtypes)
    dtype = mm.unet_dtype(model_params=sum(v.numel() for v in state.values()), supported_dtypes=dtypes)
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, load_device, dtypes))
    model = config.get_model(state, "")
    kind = comfy.model_patcher.ModelPatcher if fixed else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=load_device, offload_device=mm.unet_offload_device())
    model.load_model_weights(state, "", assign=patcher.is_dynamic())
    return patcher


def load_changed(part: str, folder: Path = FOLDER) -> comfy.model_patcher.ModelPatcher:
    """The generator with the low-rank change of a part (`expert_high`, `expert_low`, `steered`), as a LoRA of
    ComfyUI."""
    return comfy.sd.load_lora_for_models(load_model(folder), None, load_part(part, folder), 1.0, 0.0)[0]


def load_dual(folder: Path = FOLDER) -> comfy.model_patcher.ModelPatcher:
    """The generator that reads two text encoders and a style vector."""
    part = load_part("dual", folder)
    change = {key: value for key, value in part.items() if ".lora_" in key}
    return comfy.sd.load_lora_for_models(_dual_unchanged(folder, part=part), None, change, 1.0, 0.0)[0]


def _dual_unchanged(
    folder: Path = FOLDER, disable_dynamic: bool = False, part: dict[str, Tensor] | None = None
) -> comfy.model_patcher.ModelPatcher:
    """part: `dual`, where it has been read already."""
    part = load_part("dual", folder) if part is None else part
    style = {key.removeprefix("diffusion_model."): value for key, value in part.items()
             if key.startswith("diffusion_model.label_emb.")}  # fmt: skip
    state = {**load_part("unet", folder), **style}
    patcher = _patcher(dual_encoder.Config, state, folder, disable_dynamic)
    patcher.cached_patcher_init = (_dual_unchanged, (folder,))
    return patcher


def load_dit(folder: Path = FOLDER, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The flow transformer as a MODEL; it reads the CLIP of `load_dit_clip`. disable_dynamic: as in `load_model`."""
    prefix = "dit."
    state = {k.removeprefix(prefix): v for k, v in load_part("dit", folder).items() if k.startswith(prefix)}
    patcher = _patcher(transformer.Config, state, folder, disable_dynamic)
    patcher.cached_patcher_init = (load_dit, (folder,))
    return patcher


def spread(rows: Tensor, ids: list[int], vocabulary: Any) -> Tensor:
    """A compact token table, spread over the tokenizer's vocabulary: what has no row gets that of the unknown word, the
    first. Only rows of words that prompts use are trained and stored."""
    table = rows[:1].repeat(vocabulary, 1)
    table[torch.tensor(ids)] = rows[1:]
    return table


def text_state(folder: Path = FOLDER) -> dict[str, Tensor]:
    """CLIP A's text tower under ComfyUI's names."""
    state, ids = load_part("clip_a", folder), manifest(folder)["token_ids"]
    text = {"clip_l.transformer." + k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    return {**text, TOKEN_TABLE: spread(state["table.weight"], ids, shapesworld.TEXT_CONFIG["vocab_size"])}


def load_clip(folder: Path = FOLDER) -> comfy.sd.CLIP:
    """CLIP A's text tower as a CLIP."""
    return _clip(_one_encoder, folder)


def load_dual_clip(folder: Path = FOLDER) -> comfy.sd.CLIP:
    """CLIP A's text tower and the small T5 as one CLIP."""
    return _clip(_two_encoders, folder)


def load_dit_clip(folder: Path = FOLDER) -> comfy.sd.CLIP:
    """CLIP A's text tower with the flow transformer's words for places, as a CLIP."""
    return _clip(_with_places, folder)


Encoders = tuple[Any, Any, dict[str, Tensor], dict]  # tokenizer, model, weights, options


def _one_encoder(folder: Path) -> Encoders:
    options = {"clip_l_model_config": dict(shapesworld.TEXT_CONFIG)}
    return comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel, text_state(folder), options


def _with_places(folder: Path) -> Encoders:
    tokenizer, _, state, options = _one_encoder(folder)
    rows, ids = load_part("dit", folder)["places.weight"], manifest(folder)["place_ids"]
    state[TOKEN_TABLE][torch.tensor(ids)] = rows.to(state[TOKEN_TABLE])
    return tokenizer, transformer.TextModel, state, options


def _two_encoders(folder: Path) -> Encoders:
    state, ids = load_part("dual", folder), manifest(folder)["t5_ids"]
    t5 = {key.replace("t5.", "t5.transformer.", 1): value for key, value in state.items() if key.startswith("t5.")}
    table = spread(state["t5.shared.weight"], ids, dual_encoder.T5_CONFIG["vocab_size"])
    projection = {key: value for key, value in state.items() if key.startswith("projection.")}
    every = {**text_state(folder), **t5, "t5.transformer.shared.weight": table, **projection}
    return dual_encoder.Tokenizer, dual_encoder.TextModel, every, {}


def _clip(encoders: Callable[[Path], Encoders], folder: Path, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    import folder_paths

    tokenizer, model, state, options = encoders(folder)
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(tokenizer, model), state_dict=state, model_options=options,
        embedding_directory=folder_paths.get_folder_paths("embeddings"), disable_dynamic=disable_dynamic,
    )  # fmt: skip
    clip.patcher.cached_patcher_init = (_clip_patcher, (encoders, folder))
    return clip


def _clip_patcher(
    encoders: Callable[[Path], Encoders], folder: Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    return _clip(encoders, folder, disable_dynamic).patcher


def load_clip_vision(folder: Path = FOLDER) -> comfy.clip_vision.ClipVisionModel:
    """CLIP A's image tower as a CLIP_VISION."""
    prefix = "image.clip."
    state = load_part("clip_a", folder)
    return dual_encoder.clip_vision({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


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


def load_segmenter(folder: Path = FOLDER) -> evaluators.Segmenter:
    """The reader as a plain module, in float32 on the CPU, its weights frozen. Raises DemoFileError."""
    return _judge("reader", "reader.", evaluators.Segmenter, folder)


def load_clip_train_image(folder: Path = FOLDER) -> evaluators.ClipTrainImage:
    """CLIP A's image tower as a plain module, as in `load_segmenter`; gradients pass to its pictures."""
    return _judge("clip_a", "image.", evaluators.ClipTrainImage, folder)


def load_clip_heldout(folder: Path = FOLDER) -> evaluators.ClipHeldout:
    """CLIP B as a plain module, as in `load_segmenter`. Row 0 of its token table is the unknown word, then come the
    manifest's token_ids in their order."""
    return _judge("clip_b", "clip_b.", partial(evaluators.ClipHeldout, len(manifest(folder)["token_ids"]) + 1), folder)


def load_scorer(clip: Any = None) -> comfy_clip.ComfyClipScorer:
    """CLIP A as a scorer, with this text encoder, which has its text tower; else with one of its own."""
    return comfy_clip.ComfyClipScorer(
        "ShapesWorld CLIP", 128, comfy_clip.patched(load_clip_train_image()), clip or load_clip()
    )
