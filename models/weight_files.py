"""Reading files of weights: weights only, never code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import comfy.utils
from torch import Tensor

BESIDE = {".json", ".txt", ".md", ".jinja", ".model", ".py", ".png", ".jpg"}  # what comes along with weights


def is_weights(file: Path) -> bool:
    """By its name: neither hidden nor one of the files that come along."""
    return file.suffix.lower() not in BESIDE and not file.name.startswith(".")


def _no_weights(path: Path) -> str:
    """What a file is that was saved in place of weights; "" if nothing speaks against it."""
    with path.open("rb") as file:
        begin = file.read(256).lstrip().lower()
    if begin.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights that it points to"
    if begin.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights"
    return ""


def read(path: Path, error: type[ValueError], cure: str) -> dict[str, Tensor]:
    """The tensors of a file by name, without what parallel training puts before names. Raises `error` with the cure."""
    wrong = _no_weights(path)
    if wrong:
        raise error(f"{path.name} {wrong}. Download the file itself.")
    try:
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as why:  # whose text may advise to load code: only its kind is told
        raise error(f"{path.name} cannot be read as weights ({type(why).__name__}). {cure}") from why
    entries = state.items() if isinstance(state, Mapping) else ()
    named = {key: value for key, value in entries if isinstance(key, str) and isinstance(value, Tensor)}
    if not named:
        raise error(f"{path.name} holds no tensors by name. {cure}")
    return {key.removeprefix("module."): value for key, value in named.items()}
