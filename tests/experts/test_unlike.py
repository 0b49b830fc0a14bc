"""The flow transformer and the UNet that ship, as experts of one run: another architecture, parameterization and text
encoder."""

from __future__ import annotations

import torch

from tools.shapesworld import sets
from tools.shapesworld.train_dit import unplaced
from tools.shapesworld.world import placed_caption
from tools.studies.demo_setup import DemoSetup
from tools.studies.experts import unlike


def test_the_unet_acts_below_its_level_only() -> None:
    flow, unet = DemoSetup(kind="dit"), DemoSetup()
    captions = [placed_caption(scene) for scene in sets.scenes("tune", 1, 1)]
    assert unplaced(captions[0]) != captions[0]
    alone = unlike.picture(flow, unet, 0.0, captions, 3)
    assert torch.equal(unlike.picture(flow, unet, 1e-4, captions, 3), alone), "below the last level nobody is asked"
    both = unlike.picture(flow, unet, 0.5, captions, 3)
    of_unet = unlike.picture(flow, unet, 1.0, captions, 3)
    assert (both - alone).abs().mean() > 1e-3
    assert (both - alone).abs().mean() < (of_unet - alone).abs().mean(), "its first half is the transformer's"
