"""The demo model and its judges, as every study uses them: each part is loaded at its first use, and once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..shapesworld.shipped_weights import CHANGES, DEMO, GENERATORS

# With the files of each beside those that all share.
KINDS = {"unet": (), "dual": CHANGES["dual"], "steered": CHANGES["steered"], **GENERATORS}


class DemoSetup:
    """folder: of the shipped files. kind: "unet"; "dual", which reads two text encoders and a style vector;
    "steered", trained to follow regions; "dit".

    more: the parts that its measurements depend on beside those of all (`record.source`).
    """

    def __init__(self, folder: Path = DEMO, kind: str = "unet") -> None:
        from fovea.models.shapesworld import loader

        self.loader, self.folder, self.kind, self.more = loader, folder, kind, KINDS[kind]

    def ready(self, *parts: str) -> DemoSetup:
        """Load these parts now, so that no measurement of time includes it."""
        for part in parts:
            getattr(self, part)
        return self

    @cached_property
    def model(self) -> Any:
        load: dict[str, Callable[[Path], Any]] = {
            "unet": self.loader.load_model, "dual": self.loader.load_dual, "dit": self.loader.load_dit,
            "steered": partial(self.loader.load_changed, "steered"),
        }  # fmt: skip
        return load[self.kind](self.folder)

    @property
    def means(self) -> tuple[tuple[float, ...], ...]:
        """What runs without a prompt begin with beside noise: from that alone the UNet makes no white backgrounds."""
        return () if self.kind == "dit" else self.loader.picture_means(self.folder)

    @cached_property
    def model_without_prompt(self) -> Any:
        """The model with a start that its training knew."""
        from fovea.guidance.picture_mean import with_picture_means

        return with_picture_means(self.model, self.means) if self.means else self.model

    @cached_property
    def clip(self) -> Any:
        load = {"dual": self.loader.load_dual_clip, "dit": self.loader.load_dit_clip}
        return load.get(self.kind, self.loader.load_clip)(self.folder)

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
