"""LoRA files: those of ComfyUI's loras folder, and the styles that ship for ShapesWorld."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from torch import Tensor

from . import weight_files
from .shapesworld import loader

NONE = "none"
SHIPPED = "ShapesWorld: "  # before the name of a style
PART = "lora_"  # before it in the manifest of what ships
CURE = "Take a LoRA saved as safetensors."


class NoLora(ValueError):
    """A file that is no LoRA; the text says what to do."""


def names() -> list[str]:
    """What can be chosen."""
    try:
        parts = loader.manifest()["parts"]
    except loader.DemoFileError:
        parts = {}
    styles = [SHIPPED + part.removeprefix(PART) for part in sorted(parts) if part.startswith(PART)]
    return [*folder_paths.get_filename_list("loras"), *styles]


def read(name: str) -> dict[str, Tensor]:
    """The tensors of one of them by name. Raises NoLora, and DemoFileError for one that ships."""
    if name.startswith(SHIPPED):
        return loader.load_part(PART + name.removeprefix(SHIPPED))
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise NoLora(f"{name} is not in ComfyUI's loras folder. Put it there and press R to reload the list.")
    weights = weight_files.read(Path(path), NoLora, CURE)
    if not weights:
        raise NoLora(f"{name} has no tensors. {CURE}")
    return weights
