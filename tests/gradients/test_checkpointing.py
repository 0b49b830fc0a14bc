"""A decoder whose blocks are computed again on the way back: the same pictures and gradients, with less memory."""

from __future__ import annotations

from collections.abc import Callable

import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn

from fovea.guidance.gradients.checkpointing import checkpoint_blocks
from tools.studies import meter


def kl() -> nn.Module:
    """Stable Diffusion's, narrow."""
    config = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
              "ch_mult": [1, 2, 2, 2], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    return comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=config, embed_dim=4)


def wan() -> nn.Module:
    """A decoder of videos, which picture models have for one frame."""
    return comfy.ldm.wan.vae.WanVAE(dim=16, z_dim=16, temperal_downsample=[False, True, True])


def wan22() -> nn.Module:
    sizes = {"dim": 16, "dec_dim": 16, "z_dim": 48, "dim_mult": [1, 2, 4, 4]}
    return comfy.ldm.wan.vae2_2.WanVAE(**sizes, temperal_downsample=[False, True, True])


@pytest.mark.parametrize("build, shape, share", [
    (kl, (1, 4, 16, 16), 0.6),
    (wan, (1, 16, 1, 16, 16), 0.6),
    (wan22, (1, 48, 1, 8, 8), 1.1),  # whose blocks hand something on, in single frames too
])  # fmt: skip
def test_same_gradient_with_less_memory(
    build: Callable[[], nn.Module], shape: tuple[int, ...], share: float
) -> None:
    network = build().eval().requires_grad_(False)
    tiny.initialize(network, 0, 1.0)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def gradient(lean: bool) -> tuple[Tensor, Tensor]:
        leaf = start.clone().requires_grad_()
        if lean:
            with checkpoint_blocks(network):
                picture = network.decode(leaf)
        else:
            picture = network.decode(leaf)
        return picture.detach(), torch.autograd.grad(picture.square().sum(), leaf)[0]

    plain, lean = gradient(False), gradient(True)
    assert torch.equal(plain[0], lean[0])
    torch.testing.assert_close(lean[1], plain[1], rtol=1e-4, atol=1e-5)
    assert plain[1].abs().amax() > 0
    assert not any("forward" in vars(module) for module in network.modules())
    peaks = [meter.peak_bytes(lambda lean=lean: gradient(lean), tiny.CPU) for lean in (False, True)]
    assert peaks[1] < share * peaks[0]


def test_an_error_inside_leaves_nothing_behind() -> None:
    network = kl()
    with pytest.raises(RuntimeError, match="out of luck"), checkpoint_blocks(network):
        raise RuntimeError("out of luck")
    assert not any("forward" in vars(module) for module in network.modules())
