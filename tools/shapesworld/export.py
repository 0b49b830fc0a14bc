"""Write the shipped files: averaged weights in half precision, shards below 15 MB, a manifest with hashes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..comfy.comfyui import sha256_of
from ..comfy.scratch import scratch_folder
from . import t5_words, train_dual, train_experts, train_lora, words
from .shipped_weights import (
    CHANGES,
    DEMO,
    GENERATORS,
    LORAS,
    PARTS,
    PREFIXES,
    TRAINING_ONLY,
    base_hash,
    needed_by,
    training_state,
    weights_hash,
)
from .stages import finished

SHARD_BYTES = 14_000_000
STAGES_ON_TOP = (*CHANGES.values(), *GENERATORS.values())
ON_TOP = (*LORAS, *(part for parts in STAGES_ON_TOP for part in parts))  # trained on what ships: it fits that alone


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
    state = finished(work, part, base_hash() if part in ON_TOP else "")
    prefix = PREFIXES.get(part, "")
    return {k.removeprefix(prefix): v.half().contiguous() for k, v in state.items() if not k.startswith(TRAINING_ONLY)}


def of_latents(work: Path, folder: Path) -> dict[str, Any]:
    """What the manifest says of latents, which must be of the autoencoder that will be there. Raises SystemExit."""
    path = work / "latents.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    vae = finished(work, "vae") if (work / "vae.pt").exists() else training_state(folder, "vae")
    if facts.pop("vae", None) != weights_hash(vae):
        raise SystemExit(f"{path} must be of the autoencoder to export: --stage latents first, or take another --work")
    return {"latents": facts, "picture_means": json.loads((work / "picture_means.json").read_text())}


def prepared(folder: Path) -> Path:
    """A folder to export to, with a copy of what ships unless it holds that already, or an export."""
    folder, manifest = folder.resolve(), DEMO / "shapesworld.json"
    if not (folder / manifest.name).exists():
        shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns(manifest.name), dirs_exist_ok=True)
        shutil.copy(manifest, folder)  # last: by it the rest is whole
    return folder


def export(work: Path, folder: Path, parts: tuple[str, ...] = PARTS) -> None:
    """Write the parts that are trained; keep the manifest's entries of the others. Nothing is touched before all is
    there. Raises SystemExit."""
    path = folder / "shapesworld.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    parts = tuple(part for part in parts if (work / f"{part}.pt").exists())
    if {*ON_TOP} & {*parts} and base_hash(folder) != base_hash():
        raise SystemExit(f"{', '.join(parts)} would not fit the generator in {folder}, which is not the one that ships")
    states = {part: shipped_state(work, part) for part in parts}
    if {"unet", "vae"} & {*parts}:
        manifest |= of_latents(work, folder)
    manifest["token_ids"], manifest["t5_ids"] = list(words.known_ids()), list(t5_words.known_ids())
    manifest["place_ids"] = list(words.place_ids())
    with scratch_folder("export", folder) as scratch:
        old = {name for part in parts for name in manifest["parts"].get(part, {})}
        for part, state in states.items():
            manifest["parts"][part] = _write(part, shards(state), scratch)
            if part in ON_TOP:
                manifest.setdefault("trained_on", {})[part] = needed_by(part, manifest["parts"])
        new = {name for part in parts for name in manifest["parts"][part]}
        (scratch / path.name).write_text(json.dumps(manifest, indent=1) + "\n")
        for name in (*new, path.name):  # the manifest last
            (scratch / name).replace(folder / name)
    for name in old - new:
        (folder / name).unlink(missing_ok=True)


def _write(part: str, pieces: list[dict[str, Tensor]], folder: Path) -> dict[str, str]:
    """-> the names of a part's files and their hashes."""
    files = {}
    for i, piece in enumerate(pieces, 1):
        name = f"shapesworld_{part}{f'_{i}of{len(pieces)}' if len(pieces) > 1 else ''}.safetensors"
        save_file(piece, folder / name)
        (folder / name).chmod(0o644)
        files[name] = sha256_of(folder / name)
    return files
