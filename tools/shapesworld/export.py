"""Write the shipped files: averaged weights in half precision, shards below 15 MB, a manifest with hashes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..comfy.comfyui import sha256_of
from . import t5_words, train_dual, train_experts, train_lora, words
from .shipped_weights import CHANGES, LORAS, PARTS, PREFIXES, TRAINING_ONLY

SHARD_BYTES = 14_000_000


def shards(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split a state dict, in order, into pieces below the shard size."""
    out: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in state.items():
        size += value.nbytes
        if size > SHARD_BYTES:
            out.append({})
            size = value.nbytes
        out[-1][key] = value
    return out


def shipped_state(work: Path, part: str) -> dict[str, Tensor]:
    """The averaged weights of a part without what only training needs; of experts and variants the change alone."""
    if part in CHANGES["dual"]:
        return train_dual.change(work)
    if part in CHANGES["experts"]:
        return train_experts.lora(work, part)
    if part in (*LORAS, *CHANGES["steered"]):
        return train_lora.file_of(work, part)
    state = torch.load(work / f"{part}.pt", map_location="cpu", weights_only=True)["ema"]
    prefix = PREFIXES.get(part, "")
    return {k.removeprefix(prefix): v.half().contiguous() for k, v in state.items() if not k.startswith(TRAINING_ONLY)}


def export(work: Path, folder: Path, parts: tuple[str, ...] = PARTS) -> None:
    """Write the parts that are trained; keep the manifest's entries of the others."""
    path = folder / "shapesworld.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    for part in parts:
        if not (work / f"{part}.pt").exists():
            continue
        for old in manifest["parts"].get(part, {}):
            (folder / old).unlink(missing_ok=True)
        pieces, files = shards(shipped_state(work, part)), {}
        for i, piece in enumerate(pieces, 1):
            name = f"shapesworld_{part}{f'_{i}of{len(pieces)}' if len(pieces) > 1 else ''}.safetensors"
            save_file(piece, folder / name)
            (folder / name).chmod(0o644)
            files[name] = sha256_of(folder / name)
        manifest["parts"][part] = files
        changes = (each for of_stage in CHANGES.values() for each in of_stage)
        if part in (*LORAS, *changes):  # fits this generator only
            manifest.setdefault("changes_of", {})[part] = manifest["parts"]["unet"]
    manifest["token_ids"], manifest["t5_ids"] = list(words.known_ids()), list(t5_words.known_ids())
    manifest["place_ids"] = list(words.place_ids())
    manifest["latents"] = json.loads((work / "latents.json").read_text())
    if (work / "picture_means.json").exists():
        manifest["picture_means"] = json.loads((work / "picture_means.json").read_text())
    path.write_text(json.dumps(manifest, indent=1) + "\n")
