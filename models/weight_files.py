"""Reading files of weights: weights only, never code."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
from torch import Tensor


def read(path: Path, error: type[ValueError], cure: str) -> dict[str, Tensor]:
    """The tensors of a file by name, without what parallel training puts before names. Raises `error` with the cure."""
    try:
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as why:
        raise error(f"{path.name} cannot be read as weights ({why}). {cure}") from why
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
