"""The demo model and its judges, as every study uses them: each part is loaded at its first use, and once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ..shapesworld.shipped_weights import DEMO


class DemoSetup:
    """folder: of the shipped files. dual: the generator that reads two text encoders and a style vector."""

    def __init__(self, folder: Path = DEMO, dual: bool = False) -> None:
        from fovea.models.shapesworld import loader

        self.loader, self.folder, self.dual = loader, folder, dual

    def ready(self, *parts: str) -> DemoSetup:
        """Load these parts now, so that no measurement of time includes it."""
        for part in parts:
            getattr(self, part)
        return self

    @cached_property
    def model(self) -> Any:
        return (self.loader.load_dual if self.dual else self.loader.load_model)(self.folder)

    @cached_property
    def clip(self) -> Any:
        return (self.loader.load_dual_clip if self.dual else self.loader.load_clip)(self.folder)

    @cached_property
    def vae(self) -> Any:
        return self.loader.load_vae(self.folder)

    @cached_property
    def vision(self) -> Any:
        return self.loader.load_clip_vision(self.folder)

    @cached_property
    def scorer(self) -> Any:
        """CLIP A, which methods optimize."""
        return self.loader.load_scorer(self.clip)

    @cached_property
    def reader(self) -> Any:
        """Segments pictures: it finds shapes, colors and the background."""
        return self.loader.load_segmenter(self.folder)

    @cached_property
    def clip_b(self) -> Any:
        """Held out: no method sees it, so it judges."""
        return self.loader.load_clip_heldout(self.folder)
