"""Every form of LoRA file: what acts in a place equals ComfyUI's loader, what cannot is counted or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.sd
import lora_files as files
import pytest
import tiny_models as tiny
import tiny_transformers as transformers
import torch
from torch import Tensor

from fovea.guidance.region_lora import matching, model_patch
from fovea.guidance.region_lora.matching import NoMatch
from fovea.guidance.regions.masks import Lora

FF = f"diffusion_model.{tiny.MIDDLE}.ff.net.2"
CONV = "diffusion_model.middle_block.0.in_layers.2"
NORM = f"diffusion_model.{tiny.MIDDLE}.norm1"
Make = Callable[[str, torch.Size, torch.Generator], dict[str, Tensor]]


def _draw(*shape: int, seed: torch.Generator, fan: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seed) / fan**0.5


def lora(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    out, into = shape[0], shape[1:].numel()
    return {f"{name}.lora_up.weight": _draw(out, 4, seed=seed) / 2, f"{name}.alpha": torch.tensor(2.0),
            f"{name}.lora_down.weight": _draw(4, *shape[1:], seed=seed, fan=into)}  # fmt: skip


def tucker(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    """LoCon: a 1x1 convolution, one with the kernel, a 1x1 convolution."""
    return {f"{name}.lora_up.weight": _draw(shape[0], 4, 1, 1, seed=seed) / 2,
            f"{name}.lora_mid.weight": _draw(4, 4, *shape[2:], seed=seed, fan=36),
            f"{name}.lora_down.weight": _draw(4, shape[1], 1, 1, seed=seed, fan=shape[1])}  # fmt: skip


def loha(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    into = shape[1:].numel()
    return {f"{name}.hada_w1_a": _draw(shape[0], 3, seed=seed), f"{name}.hada_w1_b": _draw(3, into, seed=seed) / 4,
            f"{name}.hada_w2_a": _draw(shape[0], 3, seed=seed), f"{name}.hada_w2_b": _draw(3, into, seed=seed) / 4,
            f"{name}.alpha": torch.tensor(1.0)}  # fmt: skip


def loha_in_parts(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    """Of a convolution, each side of the product in three parts."""
    return {f"{name}.hada_w{side}_a": _draw(3, shape[0], seed=seed) for side in (1, 2)} | {
        f"{name}.hada_w{side}_b": _draw(3, shape[1], seed=seed) / 4 for side in (1, 2)
    } | {f"{name}.hada_t{side}": _draw(3, 3, *shape[2:], seed=seed) / 2 for side in (1, 2)}


def lokr(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    second = {f"{name}.lokr_w2": _draw(shape[0] // 4, shape[1] // 4, *shape[2:], seed=seed) / 8}
    return {f"{name}.lokr_w1": _draw(4, 4, seed=seed), **second}


def lokr_in_parts(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    into = shape[1:].numel() // 4
    return {f"{name}.lokr_w1_a": _draw(4, 2, seed=seed), f"{name}.lokr_w1_b": _draw(2, 4, seed=seed),
            f"{name}.lokr_w2_a": _draw(shape[0] // 4, 2, seed=seed) / 3, f"{name}.alpha": torch.tensor(2.0),
            f"{name}.lokr_w2_b": _draw(2, into, seed=seed) / 4}  # fmt: skip


def difference(name: str, shape: torch.Size, seed: torch.Generator) -> dict[str, Tensor]:
    return {f"{name}.diff": _draw(*shape, seed=seed, fan=4 * shape[1:].numel()),
            f"{name}.diff_b": _draw(shape[0], seed=seed) / 2}  # fmt: skip


def weights(model: Any, seed: int, *made: tuple[Make, str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    file: dict[str, Tensor] = {}
    for make, name in made:
        file |= make(name, model.model.get_submodule(name).weight.shape, generator)
    return file


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("strength", [1.0, -0.6])
@pytest.mark.parametrize("made", [
    (lora, FF), (lora, CONV), (tucker, CONV), (loha, FF), (loha, CONV), (loha_in_parts, CONV), (lokr, FF), (lokr, CONV),
    (lokr_in_parts, FF), (difference, FF), (difference, CONV),
], ids=lambda made: f"{made[0].__name__} of {made[1].rsplit('.', 2)[1]}")  # fmt: skip
def test_equals_the_loader(made: tuple[Make, str], strength: float) -> None:
    model = tiny.unet("sd15")
    file = weights(model, 3, made)
    loaded = comfy.sd.load_lora_for_models(model, None, file, strength, 0.0)[0]
    patched = model.clone()
    assert not model_patch.install(patched, files.Regions((files.region(torch.ones(1, 8, 8), file, strength),)))
    plain, wanted = (tiny.sample(each, tiny.noise(32, 32), steps=1) for each in (model, loaded))
    assert far(plain, wanted) > 1e-3
    assert far(tiny.sample(patched, tiny.noise(32, 32), steps=1), wanted) < 1e-5


class TestPartsOfALayer:
    """Names of diffusers: queries, keys and values are one layer here, and some layers' rows come in another order."""

    @pytest.mark.parametrize(("kind", "names"), [
        ("flux", {"transformer.transformer_blocks.0.attn.to_q": (64, 64),
                  "transformer.transformer_blocks.0.attn.add_v_proj": (64, 64),
                  "transformer.single_transformer_blocks.1.attn.to_k": (64, 64),
                  "transformer.single_transformer_blocks.1.proj_out": (64, 192)}),
        ("sd3", {"transformer.transformer_blocks.1.attn.to_v": (128, 128),
                 "transformer.norm_out.linear": (256, 128)}),
        ("zimage", {"transformer.layers.1.attention.to_k": (256, 256)}),
    ])  # fmt: skip
    def test_equals_the_loader(self, kind: str, names: dict[str, tuple[int, int]]) -> None:
        model, generator, file = transformers.build(kind), torch.Generator().manual_seed(1), {}
        for name, shape in names.items():
            file |= {f"{name}.lora_A.weight": _draw(4, shape[1], seed=generator, fan=shape[1]),
                     f"{name}.lora_B.weight": _draw(shape[0], 4, seed=generator)}  # fmt: skip
        loaded = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)[0]
        assert sum(map(len, loaded.patches.values())) == len(names), "twin: the loader knows all of them"
        patched = model.clone()
        assert not model_patch.install(patched, files.everywhere(file))
        wanted = transformers.sample(loaded, transformers.noise(kind), steps=1)
        assert far(transformers.sample(model, transformers.noise(kind), steps=1), wanted) > 1e-3
        assert far(transformers.sample(patched, transformers.noise(kind), steps=1), wanted) < 1e-5


class TestWhatCannotAct:
    def file(self, model: Any) -> dict[str, Tensor]:
        return weights(model, 3, (lora, FF))

    def told(self, model: Any, file: dict[str, Tensor]) -> str:
        return " ".join(model_patch.install(model.clone(), files.everywhere(file)))

    def test_dora_norms_rotations_and_replacements_are_counted(self) -> None:
        model = tiny.unet("sd15")
        file = self.file(model)
        q, k, v = (f"diffusion_model.{tiny.MIDDLE}.attn1.to_{each}" for each in "qkv")
        file |= {**weights(model, 4, (lora, q)), f"{q}.dora_scale": torch.ones(32, 1)}
        file |= {f"{NORM}.diff": torch.ones(32), f"{NORM}.diff_b": torch.ones(32)}
        file |= {f"{k}.set_weight": torch.ones(32, 32), f"{v}.oft_blocks": torch.zeros(4, 8, 8)}
        told = self.told(model, file)
        for wanted in ("1 changes of kind DoRA", "2 changes of norms", '1 changes of kind "set"', "of kind OFT"):
            assert wanted in told, told
        plain = self.file(model)
        both = (tiny.sample(self.patched(model, each), tiny.noise(32, 32), steps=1) for each in (file, plain))
        assert torch.equal(*both), "the rest acts"

    def patched(self, model: Any, file: dict[str, Tensor]) -> Any:
        patched = model.clone()
        model_patch.install(patched, files.everywhere(file))
        return patched

    def test_unknown_names_are_told_and_the_text_encoders_are_not_unknown(self) -> None:
        model = tiny.unet("sd15")
        text = "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"
        told = self.told(model, {**self.file(model), "blocks.99.q.lora_up.weight": torch.ones(1), text: torch.ones(1)})
        assert "no layer of this model is called blocks.99.q.lora_up.weight" in told and "lora_te" not in told

    def test_of_another_model_is_an_error(self) -> None:
        other = {f"diffusion_model.double_blocks.{n}.img_attn.qkv.lora_{part}.weight": torch.ones(2, 2)
                 for n in range(3) for part in ("up", "down")}  # fmt: skip
        with pytest.raises(NoMatch, match=r"test.safetensors fits no layer of this model .BaseModel"):
            self.told(tiny.unet("sd15"), other)

    def test_of_the_same_family_in_another_size_is_an_error(self) -> None:
        model = tiny.unet("sd15")
        file = {key: torch.cat([value, value]) if "up" in key else value for key, value in self.file(model).items()}
        with pytest.raises(NoMatch, match="1 of another size"):
            self.told(model, file)

    @pytest.mark.parametrize(("make", "name"), [
        (lora, FF), (loha, FF), (loha, CONV), (loha_in_parts, CONV), (lokr, FF), (lokr_in_parts, FF), (difference, FF),
    ])  # fmt: skip
    def test_every_kind_has_a_size(self, make: Make, name: str) -> None:
        """Four times as wide: "of kind" would send people looking for another kind."""
        model = tiny.unet("sd15")
        out, into, *kernel = model.model.get_submodule(name).weight.shape
        file = make(name, torch.Size((out, 4 * into, *kernel)), torch.Generator().manual_seed(1))
        file.pop(f"{name}.diff_b", None)
        with pytest.raises(NoMatch, match=r"fits no layer of this model .BaseModel; left out: 1 of another size"):
            self.told(model, file)

    def test_a_file_for_the_text_encoder_alone(self) -> None:
        """No error where its part acts; of strength 0 on the model a file changes nothing, whatever is in it."""
        model = tiny.unet("sd15")
        words = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4, 1)}
        assert matching.match(model.model, [(0, Lora("t", words, 1.0, 1.0))]) == ({}, [])
        assert matching.match(model.model, [(0, Lora("t", files.weights(model, 1), 0.0, 1.0))]) == ({}, [])
        off = files.halves(files.weights(model, 1), files.weights(model, 2))
        off = files.Regions(tuple(replace(r, loras=tuple(replace(x, model=0.0) for x in r.loras)) for r in off.items))
        clone = model.clone()
        model_patch.install(clone, off)
        assert torch.equal(tiny.sample(clone, tiny.noise(16, 16)), tiny.sample(model, tiny.noise(16, 16)))
        with pytest.raises(NoMatch, match="LoRA t fits no layer"):
            matching.match(model.model, [(0, Lora("t", words, 1.0, 0.0))])

    def test_nothing_that_can_act_is_an_error(self) -> None:
        with pytest.raises(NoMatch, match=r"nothing in LoRA test.safetensors can act in a place"):
            self.told(tiny.unet("sd15"), {f"{NORM}.diff": torch.ones(32)})

    def test_no_lora_at_all_is_an_error(self) -> None:
        with pytest.raises(NoMatch, match="fits no layer"):
            self.told(tiny.unet("sd15"), {"some.weight": torch.ones(3)})
