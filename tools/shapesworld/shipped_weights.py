"""The files that ship in demo/, as training continues from them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..comfy.host import ROOT

DEMO = ROOT / "demo"
PARTS = ("unet", "vae", "clip_a", "clip_b", "reader")
CHANGES = {"experts": ("expert_high", "expert_low"), "dual": ("dual",)}  # of the generator that ships, by stage


def training_state(folder: Path, part: str) -> dict[str, Tensor]:
    """The inverse of `export.shipped_state`: a shipped part under the names that training uses, in fp32."""
    from fovea.models.shapesworld import loader as demo_model

    prefix = f"{part}." if part in ("unet", "vae") else ""
    return {prefix + k: v.float() for k, v in demo_model.load_part(part, folder).items()}
