"""Folders of ours under ComfyUI's models folder."""

from __future__ import annotations

from pathlib import Path

import folder_paths


def register(name: str) -> str:
    """Make a folder known to ComfyUI, beside those of a user's extra_model_paths.yaml. Returns its name."""
    folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    return name
