"""The flow transformer and the UNet that ship, as experts of one run: another architecture on another schedule."""

from __future__ import annotations

import tiny_models as tiny
import torch

from tools.shapesworld import sets
from tools.studies.demo_setup import DemoSetup
from tools.studies.experts import unlike


@torch.no_grad()
def test_the_unet_acts_below_its_level_only() -> None:
    flow, unet, scenes = DemoSetup(kind="dit"), DemoSetup(), sets.scenes("tune", 1, 1)
    levels = {}
    for border in (0.0, 1e-4, 0.6, 1.0):
        with tiny.watching(unet.model, "") as of_unet, tiny.watching(flow.model, "") as of_flow:
            unlike.pictures(flow, unet, border, scenes, 3)
        levels[border] = [call["sigma"] for call in of_unet], [call["sigma"] for call in of_flow]
    for border in (0.0, 1e-4):
        assert not levels[border][0] and len(levels[border][1]) == unlike.STEPS
    assert len(levels[1.0][0]) == unlike.STEPS and not levels[1.0][1]
    below, above = levels[0.6]
    assert len(below) + len(above) == unlike.STEPS and min(len(below), len(above)) > 3
    assert max(below) / (1 + max(below)) < 0.6 <= min(above), "the UNet counts noise to picture, the flow noise to all"
