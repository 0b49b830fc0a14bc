"""What Load Scorer offers of models/scorers, and the scorer of what was chosen."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .. import model_folders, weight_files
from . import aesthetic, open_clip, vqa
from .open_clip import UnknownScorer
from .scorer import Scorer

FOLDER = model_folders.register("scorers")
CONFIG = "config.json"


def names() -> list[str]:
    """Weight files, and folders of models that see and speak in place of the files inside."""
    files = folder_paths.get_filename_list(FOLDER)
    configs = [name for name in files if Path(name).name == CONFIG and Path(name).parent != Path()]
    folders = [Path(name).parent for name in configs
               if vqa.is_folder(Path(folder_paths.get_full_path(FOLDER, name) or name))]  # fmt: skip
    offered = [*folders, *(Path(name) for name in files if weight_files.is_weights(Path(name)))]
    return sorted(str(each) for each in offered if not set(folders) & set(each.parents))


def load(name: str, activation: str = "auto", clip: Scorer | None = None) -> Scorer:
    """A scorer by one of `names`. clip: for the head of an aesthetic predictor. Raises UnknownScorer."""
    path = folder_paths.get_full_path(FOLDER, name)
    config = folder_paths.get_full_path(FOLDER, str(Path(name) / CONFIG))
    if path is None and config is not None:
        return vqa.load(Path(config).parent)
    file = Path(folder_paths.get_full_path_or_raise(FOLDER, name))
    state = weight_files.read(file, UnknownScorer, open_clip.CURE)
    if aesthetic.is_head(state):
        return aesthetic.with_clip(state, file.name, clip)
    return open_clip.from_weights(state, file, activation)
