"""Region LoRA on whole networks of every family: against ComfyUI's loader, and every layer computed both ways."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.sd
import lora_files as files
import pytest
import tiny_models as tiny
import tiny_transformers as transformers
import torch
from torch import Tensor, nn

from fovea.guidance.region_lora import model_patch

UNETS, TRANSFORMERS = ("sd15", "sdxl"), tuple(transformers.KINDS)
TEXT = {"sd15": 77, "sdxl": 77}


def build(kind: str) -> Any:
    return tiny.unet(kind) if kind in UNETS else transformers.build(kind)


def sample(kind: str, model: Any, **settings: Any) -> Tensor:
    if kind in UNETS:
        return tiny.sample(model, tiny.noise(32, 48), **{"steps": 2, **settings})
    return transformers.sample(model, transformers.noise(kind), **{"steps": 2, **settings})


def patched(model: Any, regions: Any, **settings: Any) -> Any:
    clone = model.clone()
    assert model_patch.install(clone, regions, **{"apart": 0.0, **settings}) == []
    return clone


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", [*UNETS, *TRANSFORMERS])
class TestAgainstTheLoader:
    def test_a_full_mask_is_the_loaders_lora(self, kind: str) -> None:
        model = build(kind)
        file = files.weights(model, 1)
        loaded = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)[0]
        wanted, plain = sample(kind, loaded), sample(kind, model)
        assert far(plain, wanted) > 0.01
        assert far(sample(kind, patched(model, files.everywhere(file))), wanted) < 1e-5

    def test_an_empty_mask_is_bit_identical(self, kind: str) -> None:
        model = build(kind)
        nowhere = files.Regions((files.region(torch.zeros(1, 8, 8), files.weights(model, 1)),))
        before = sample(kind, model)
        assert torch.equal(sample(kind, patched(model, nowhere.acting)), before)
        assert torch.equal(sample(kind, patched(model, nowhere)), before)
        assert torch.equal(sample(kind, model), before)


@pytest.mark.parametrize("size", [(33, 47), (65, 130), (9, 8)], ids=str)
@pytest.mark.parametrize("kind", UNETS)
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    """The same LoRA everywhere, or in two halves that are no whole number of places, is the loader's. In the smallest,
    whose deepest layers have one place, 1e-7 at the start is 2e-5 at the end."""
    model, start = build(kind), tiny.noise(*size)
    file = files.weights(model, 1)
    loaded = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)[0]
    wanted, plain = (tiny.sample(each, start, steps=1) for each in (loaded, model))
    assert far(plain, wanted) > 0.01
    for regions in (files.everywhere(file), files.halves(file, file, height=5, width=7)):
        assert far(tiny.sample(patched(model, regions), start, steps=1), wanted) < 1e-4


@contextmanager
def both_ways(kind: str, network: nn.Module, changes: list[dict[str, Tensor]], masks: Tensor) -> Iterator[None]:
    """Every layer computed with every LoRA in its weight, mixed by mask: [regions, height, width] of the whole picture.

    What values are about is told by their number, which the sizes of these tests make unmistakable.
    """
    text, covered = TEXT.get(kind, transformers.TEXT), masks.mean(dim=(1, 2))
    spatial: dict[str, tuple[int, ...]] = {}
    places = (8, 12) if kind in UNETS else transformers.tokens(kind, tuple(transformers.noise(kind).shape[2:]))[-2:]
    sizes = [(32 // n, 48 // n) for n in (1, 2, 4, 8)] if kind in UNETS else [places]
    grids, own = {math.prod(size): size for size in sizes}, math.prod(places)

    def on(grid: tuple[int, ...]) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(masks[None], grid)[0]  # [regions, h, w]

    def shares(name: str, y: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output and [regions, ...] to mix it by; it has all tokens where it is one for all of them."""
        if y.ndim == 5 and y.shape[1:4] == (1, *places):  # Cosmos and Kandinsky have channels last
            return y, on(places)[:, None, None, ..., None]
        if y.ndim >= 4 and y.shape[-2:] in sizes:
            return y, on(tuple(y.shape[-2:])).view(-1, *[1] * (y.ndim - 2), *y.shape[-2:])
        if "emb_layers" in name:
            grid = spatial["now"]
            return y[..., None, None].expand(*y.shape, *grid), on(grid)[:, None, None]
        joint = torch.cat([covered[:, None].expand(-1, text), on(places).flatten(1)], dim=1)
        if name.endswith(("_mod.lin", "modulation.lin")) and "_blocks" in name:
            each = on(places).flatten(1) if "img_mod" in name else joint if "single" in name else joint[:, :text]
            return y.expand(-1, each.shape[1], -1), each[:, None, :, None]
        n = y.shape[1] if y.ndim == 3 and y.shape[0] == 2 else 0
        if n in grids:
            return y, on(grids[n]).flatten(1)[:, None, :, None]
        if n == own + text:
            return y, joint[:, None, :, None]
        behind = transformers.KINDS[kind].behind if kind in TRANSFORMERS else 0
        if behind and n == own + behind:
            last = torch.cat([on(places).flatten(1), covered[:, None].expand(-1, behind)], dim=1)
            return y, last[:, None, :, None]
        if kind == "zimage" and n == own + 32:
            padded = torch.cat([covered[:, None].expand(-1, 32), on(places).flatten(1)], dim=1)
            return y, padded[:, None, :, None]
        return y, covered.view(-1, *[1] * y.ndim)

    def forward(module: nn.Module, name: str, x: Tensor) -> Tensor:
        plain, mixed = type(module).forward(module, x), 0
        whole, each = shares(name, plain)
        weight = module.weight.data
        for r, file in enumerate(changes):
            up, down = (file[f"diffusion_model.{name}.lora_{part}.weight"].flatten(1) for part in ("up", "down"))
            module.weight.data = weight + (up @ down).view(weight.shape)
            with_it = shares(name, type(module).forward(module, x))[0]
            mixed = mixed + each[r] * with_it
        module.weight.data = weight
        return mixed + (1 - each.sum(dim=0)) * whole

    named = files.layers(network)
    for name, module in named.items():
        module.forward = lambda x, module=module, name=name: forward(module, name, x)
    noted = [part.register_forward_pre_hook(lambda _, args: spatial.update(now=tuple(args[0].shape[2:])))
             for part in network.modules() if type(part).__name__ == "ResBlock"]  # fmt: skip
    try:
        yield
    finally:
        for module in named.values():
            del module.forward
        for hook in noted:
            hook.remove()


@pytest.mark.parametrize("kind", [*UNETS, *TRANSFORMERS])
def test_two_halves_equal_every_layer_both_ways(kind: str) -> None:
    model = build(kind)
    changes = [files.weights(model, seed) for seed in (1, 2)]
    left = torch.zeros(32, 48)
    left[:, :24] = 1
    with both_ways(kind, model.model.diffusion_model, changes, torch.stack([left, 1 - left])):
        wanted = sample(kind, model, steps=1)
    found = sample(kind, patched(model, files.halves(*changes)), steps=1)
    assert far(sample(kind, model, steps=1), wanted) > 0.01
    assert far(found, wanted) < 1e-5


@pytest.mark.parametrize("kind", [*UNETS, "flux", "wan", "lens"])  # words in front, elsewhere, and behind
def test_small_regions_and_a_free_rest_equal_every_layer_both_ways(kind: str) -> None:
    """A quarter and three eighths of the picture: what has no place takes so much of each."""
    model, masks = build(kind), torch.zeros(2, 8, 8)
    changes = [files.weights(model, seed) for seed in (1, 2)]
    masks[0, :, :2], masks[1, :, 2:5] = 1, 1
    pixels = masks.repeat_interleave(4, 1).repeat_interleave(6, 2)
    with both_ways(kind, model.model.diffusion_model, changes, pixels):
        wanted = sample(kind, model, steps=1)
    regions = files.Regions(tuple(files.region(mask[None], file) for mask, file in zip(masks, changes)))
    assert far(sample(kind, model, steps=1), wanted) > 0.01
    assert far(sample(kind, patched(model, regions), steps=1), wanted) < 1e-5


@pytest.mark.parametrize("kind", [*UNETS, *TRANSFORMERS])
def test_places_can_be_kept_apart_everywhere(kind: str) -> None:
    """Two halves without LoRAs of any effect: what changes is that places look at their own half."""
    model = build(kind)
    nothing = [{key: value * 0 if "up" in key else value for key, value in files.weights(model, seed).items()}
               for seed in (1, 2)]  # fmt: skip
    plain, together, apart = (
        sample(kind, each, steps=1) for each in (model, *(patched(model, files.halves(*nothing), apart=how)
                                                          for how in (0.0, 1.0)))
    )  # fmt: skip
    assert far(together, plain) < 1e-6 and torch.isfinite(apart).all()
    assert far(apart, plain) > 1e-4
