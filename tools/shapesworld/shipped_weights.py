"""The files that ship in demo/, as training continues from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor

from ..comfy.host import ROOT

DEMO = ROOT / "demo"
PARTS = ("unet", "vae", "clip_a", "clip_b", "reader")
CHANGES = {  # of the generator that ships, by stage
    "experts": ("expert_high", "expert_low"), "dual": ("dual",), "steered": ("steered",),
}  # fmt: skip
LORAS = {"lora_outlined": "outlined", "lora_shaded": "shaded"}  # of that generator, by the style of each
GENERATORS = {"dit": ("dit",)}  # beside it, by stage
BASE = ("unet", "vae", "clip_a")  # what changes, and generators beside it, are trained on top of
NEEDED = {"dit": ("vae", "clip_a")}  # of those to run; where nothing is said, all
PREFIXES = {"unet": "unet.", "vae": "vae.", "dit": "network."}  # of names in training that shipped files do without
TRAINING_ONLY = ("point_", "network.layout.")  # heads that only training needs


def training_state(folder: Path, part: str) -> dict[str, Tensor]:
    """The inverse of `export.shipped_state`: a shipped part under the names that training uses, in fp32."""
    from fovea.models.shapesworld import loader as demo_model

    prefix = PREFIXES.get(part, "")
    return {prefix + k: v.float() for k, v in demo_model.load_part(part, folder).items()}


def needed_by(part: str, parts: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Of a manifest's parts, with their files, those that a part on top was trained on and runs with."""
    return {name: parts[name] for name in NEEDED.get(part, BASE)}


def base_hash(folder: Path = DEMO) -> str:
    """Of the files in a folder that other parts are trained on top of: to another base those do not fit."""
    parts = json.loads((folder / "shapesworld.json").read_text())["parts"]
    return hashlib.sha256(json.dumps([parts[part] for part in BASE]).encode()).hexdigest()[:12]


def weights_hash(state: dict[str, Tensor]) -> str:
    """Of weights under the names of training, in half precision: exported ones have that of their checkpoint."""
    told = hashlib.sha256()
    for key, value in sorted(state.items()):
        told.update(key.encode() + value.half().contiguous().numpy().tobytes())
    return told.hexdigest()[:12]
