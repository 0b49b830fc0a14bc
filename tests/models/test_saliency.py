"""Saliency: TranSalNet and UNISAL against ones built from torchvision, letterbox, spectral residual."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import transalnet as reference
from reference import unisal as unisal_reference
from torch import Tensor, nn

from fovea.guidance.blur import gaussian_blur
from fovea.guidance.spectral_residual import spectral_residual
from fovea.models.saliency import loader, transalnet, unisal
from fovea.models.saliency.transalnet import TranSalNet
from fovea.models.saliency.unisal import Unisal
from tools.shapesworld import sets
from tools.shapesworld.world import N_OBJECT_CLASSES, render

KEYS = {"res": 473, "dense": 1115}


def lively(network: nn.Module) -> None:
    """Weights and running statistics with which the output depends on the picture."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, math.sqrt(2 / fan), generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.1, generator=generator)
    for name, parameter in network.named_parameters():
        if name.endswith("position_embeddings"):
            parameter.data.normal_(0, 0.5, generator=generator)


@torch.no_grad()
def settle(network: nn.Module, kind: str, pictures: Tensor) -> None:
    """Take the norms' statistics from pictures, as training does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    reference.forward(network, kind, pictures)
    network.eval()


@pytest.mark.parametrize("kind", KEYS)
def test_published_state_dicts_load_and_mean_the_same(kind: str) -> None:
    published, ours = reference.network(kind), TranSalNet(kind).eval()
    lively(published)
    pictures = torch.rand(2, 3, 288, 384, generator=torch.Generator().manual_seed(1))
    settle(published, kind, pictures)
    state = published.state_dict()
    assert len(state) == KEYS[kind]
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    assert transalnet.kind_of(state) == kind
    ours.load_state_dict(state)
    with torch.no_grad():
        for got, wanted in zip(ours.encoder(pictures), reference.features(published, kind, pictures)):
            assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        got, wanted = ours(pictures), reference.forward(published, kind, pictures)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert got.shape == (2, 1, 288, 384) and 0 <= got.min() < got.max() <= 1
    assert (got[0] - got[1]).abs().max() > 1e-3, "it depends on the picture"


def test_other_state_dicts_are_none_of_both() -> None:
    assert transalnet.kind_of({"conv1.weight": torch.zeros(1)}) is None


class TestUnisal:
    """Its published file is not at hand: names and shapes are checked by their count (835 in all, 390 for pictures)
    and by torchvision's MobileNet V2, with whose layers the reference runs."""

    @pytest.fixture(scope="class")
    def ours(self) -> Unisal:
        network = Unisal().eval()
        lively(network)
        generator = torch.Generator().manual_seed(2)
        network.coarse_gaussians_salicon.data.uniform_(-1, 1, generator=generator)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
        return network

    def test_is_the_reference(self, ours: Unisal) -> None:
        state = ours.state_dict()
        assert len(state) == 390 and unisal.is_unisal(state)
        picture = torch.randn(1, 3, 224, 288, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert (ours.cnn(picture)[0] - unisal_reference.encoder(state)(picture)).abs().max() < 1e-3
            got = ours(picture)[0]
        wanted = unisal_reference.forward(state, picture)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
        assert got.exp().sum() == pytest.approx(1, rel=1e-3) and got.std() > 0.01

    def test_sizes(self, ours: Unisal) -> None:
        assert unisal.working_size(480, 640) == (288, 384) and unisal.working_size(512, 512) == (320, 320)
        for size in ((100, 37), (288, 384)):
            with torch.no_grad():
                found = ours.saliency(torch.rand(2, 3, *size))
            assert found.shape == (2, *size) and found.amax((1, 2)).tolist() == [1, 1] and found.min() > 0

    def test_file(self, ours: Unisal, tmp_path: Path) -> None:
        """With the parts for videos in it, as published; and one that lacks something."""
        state = {**ours.state_dict(), "rnn.x.weight": torch.zeros(3), "adaptation_dhf1k.0.bias": torch.zeros(1)}
        torch.save(state, tmp_path / "weights_best.pth")
        model = loader.load(tmp_path / "weights_best.pth")
        pictures = torch.rand(1, 3, 288, 384)
        with torch.no_grad():
            torch.testing.assert_close(model(pictures), ours.saliency(pictures))
        state.pop("cnn.features.3.conv.0.weight")
        torch.save(state, tmp_path / "part.pth")
        with pytest.raises(loader.UnknownSaliencyModel, match="incomplete UNISAL"):
            loader.load(tmp_path / "part.pth")


class TestLetterbox:
    def test_published_geometry(self) -> None:
        """480 x 640 fills it; a wide picture has bars above and below, a tall one left and right."""
        for height, width, rows, columns in ((480, 640, 288, 384), (100, 400, 96, 384), (512, 256, 288, 144)):
            boxed = transalnet.letterbox(torch.ones(1, 3, height, width))
            inside = boxed[0, 0] == 1
            assert (inside.any(1).sum(), inside.any(0).sum()) == (rows, columns)
            assert float(boxed.min()) == (1.0 if rows * columns == 288 * 384 else pytest.approx(1 / 255))
            top, left = int(inside.any(1).int().argmax()), int(inside.any(0).int().argmax())
            assert (top, left) == ((288 - rows) // 2, (384 - columns) // 2)

    @settings(max_examples=60, deadline=None)
    @given(height=st.integers(1, 700), width=st.integers(1, 700))
    def test_any_size_comes_back(self, height: int, width: int) -> None:
        boxed = transalnet.letterbox(torch.ones(1, 3, height, width))
        assert boxed.shape == (1, 3, 288, 384)
        assert transalnet.unboxed(boxed[:, :1], height, width).shape == (1, height, width)

    @pytest.mark.parametrize("size", [(288, 384), (640, 480), (480, 900), (17, 900), (900, 17), (1, 1), (333, 250)])
    def test_a_map_is_stretched_as_a_whole_and_cut(self, size: tuple[int, int]) -> None:
        """As published, although the axis that is cut comes first."""
        maps = torch.rand(2, 1, 288, 384, generator=torch.Generator().manual_seed(3))
        height, width = size
        rows, columns = max(height, 288 * width // 384), max(width, 384 * height // 288)
        top, left = (rows - height) // 2, (columns - width) // 2
        wanted = nn.functional.interpolate(maps, size=(rows, columns), mode="bilinear")[:, 0]
        wanted = wanted[:, top : top + height, left : left + width]
        torch.testing.assert_close(transalnet.unboxed(maps, *size), wanted, rtol=1e-5, atol=1e-6)

    def test_a_very_wide_picture_takes_no_memory_of_a_square(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = transalnet.F.interpolate
        made: list[int] = []

        def watched(*args: Tensor, **more: object) -> Tensor:
            found = real(*args, **more)
            made.append(found.numel())
            return found

        monkeypatch.setattr(transalnet.F, "interpolate", watched)
        assert transalnet.unboxed(torch.rand(1, 1, 288, 384), 8, 6000).shape == (1, 8, 6000)
        assert max(made) < 6000 * 4500 / 10

    @pytest.mark.parametrize("size", [(144, 192), (96, 384), (288, 144), (400, 300)])
    def test_what_is_where_stays_there(self, size: tuple[int, int]) -> None:
        """A smooth picture through letterbox and back, with no border in it."""
        y, x = (torch.linspace(0, 1, n) for n in size)
        picture = (0.2 + 0.5 * y[:, None] + 0.3 * x[None]).expand(1, 3, -1, -1)
        back = transalnet.unboxed(transalnet.letterbox(picture)[:, :1], *size)
        inner = (slice(None), slice(4, -4), slice(4, -4))
        torch.testing.assert_close(back[inner], picture[:, 0][inner], rtol=0, atol=0.01)


class TestSpectralResidual:
    @pytest.mark.parametrize("spot", [(30, 40), (90, 64), (64, 100)])
    def test_finds_what_stands_out_of_a_texture(self, spot: tuple[int, int]) -> None:
        texture = gaussian_blur(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)), 2.0)
        texture = 0.45 + 2 * (texture - texture.mean())
        texture[..., spot[0] - 6 : spot[0] + 6, spot[1] - 6 : spot[1] + 6] = 1
        found = spectral_residual(texture.clamp(0, 1))[0]
        at = found.argmax().item()
        assert math.dist((at // 128, at % 128), spot) < 10 and found[spot] > 10 * found.median()

    def test_finds_the_objects_of_painted_pictures(self) -> None:
        hits = 0
        for i in range(12):
            picture, labels = render(sets.scene("tune", 300 + i, 1 + i % 4))[:2]
            found = spectral_residual(torch.from_numpy(picture)[None].movedim(-1, 1).float() / 255)[0]
            objects = torch.from_numpy(labels) < N_OBJECT_CLASSES
            objects = nn.functional.interpolate(objects[None, None].float(), size=found.shape)[0, 0] > 0.5
            hits += bool(objects.flatten()[found.argmax()])
            assert found[objects].mean() > 2 * found[~objects].mean()
        assert hits >= 10

    def test_flat_pictures_have_none_and_sizes_are_kept(self) -> None:
        assert spectral_residual(torch.full((2, 3, 40, 90), 0.3)).eq(0).all()
        found = spectral_residual(torch.rand(2, 3, 33, 70))
        assert found.shape == (2, 33, 70) and found.min() >= 0 and found.max() <= 1.0001
