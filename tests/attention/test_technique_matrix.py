"""Every technique with what people run models with: compiled networks, half precision, other attention kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_base
import comfy.model_patcher
import pytest
import techniques
import tiny_encoders
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy.ldm.modules import attention
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import TorchCompileModel, skip_torch_compile_dict
from techniques import BACKENDS, OTHERS, PATCHES, PROMPT, TECHNIQUES, WITH_GRADIENTS, World
from torch import Tensor

from fovea.guidance.regions import prompt_encoding
from fovea.models.shapesworld import generator
from fovea.models.shapesworld import loader as demo_model

CHOOSES = "arranged"  # among the largest of many numbers: where two are alike, rounding exchanges two blocks
STEERS = ("regions", "region_lora", "hard_regions", "paint", "arranged", "layout_loss")
DRAW = [name for name in TECHNIQUES if name != "attention_map"]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def alike(technique: str, got: Tensor, wanted: Tensor, tolerance: float = 1e-3) -> bool:
    return relative(got, wanted) < (0.1 if technique == CHOOSES else tolerance)


@pytest.fixture(scope="module")
def world() -> World:
    return techniques.shapesworld(16)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return demo_model.load_model()


@pytest.fixture(scope="module")
def wanted(model: Any, world: World) -> dict[str, Tensor]:
    """What every technique draws with the attention that ComfyUI takes here, uncompiled, in single precision."""
    return {name: techniques.run(name, model, world) for name in ("plain", *TECHNIQUES)}


@pytest.mark.parametrize("technique", DRAW)
def test_what_techniques_do_is_more_than_tolerances_allow(
    technique: str, model: Any, world: World, wanted: dict[str, Tensor]
) -> None:
    """Twin of all that compares two pictures of a technique."""
    without = techniques.without(technique, model, world)
    assert not alike(technique, wanted[technique], without, 0.01), relative(wanted[technique], without)


def whole(model: Any) -> Any:
    return TorchCompileModel.execute(model, "eager").result[0]


def by_block(model: Any) -> Any:
    """As other packs compile, with ComfyUI's filter of guards: each transformer block by itself."""
    patched = model.clone()
    names = [name for name, _ in model.model.diffusion_model.named_modules()]
    keys = [f"diffusion_model.{name}" for name in names if name.split(".")[-2:-1] == ["transformer_blocks"]]
    assert len(keys) > 3
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(patched, backend="eager", options=options, keys=keys)
    return patched


COMPILED = {"whole": whole, "by block": by_block}


class Broken(RuntimeError):
    """What a network, or a node of somebody else, may raise at any moment."""


class TestCompiled:
    """Backend "eager" stands for inductor: the same tracing, without the C++ compiler, which would take minutes."""

    @pytest.fixture
    def fresh_compiler(self) -> Iterator[None]:
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.fixture
    def counted(self, fresh_compiler: None, model: Any) -> tuple[Any, list[int]]:
        """A compiled model, and a list that grows with every call of compiled code."""
        calls: list[int] = []

        def backend(graph: torch.fx.GraphModule, _inputs: list) -> Callable:
            def run(*given: Any) -> Any:
                calls.append(1)
                return graph.forward(*given)

            return run

        patched = model.clone()
        set_torch_compile_wrapper(patched, backend=backend, options={"guard_filter_fn": skip_torch_compile_dict})
        return patched, calls

    @pytest.fixture(scope="class", params=list(COMPILED))
    def compiled(self, request: pytest.FixtureRequest, model: Any, world: World) -> Iterator[tuple[Any, Tensor]]:
        torch.compiler.reset()
        patcher = COMPILED[request.param](model)
        yield patcher, techniques.run("plain", patcher, world)  # what is traced first serves all that follows
        torch.compiler.reset()

    @pytest.mark.parametrize("technique", list(TECHNIQUES))
    def test_after_a_plain_run(
        self, compiled: tuple[Any, Tensor], technique: str, world: World, wanted: dict[str, Tensor]
    ) -> None:
        patcher, plain = compiled
        assert relative(plain, wanted["plain"]) < 1e-4
        assert alike(technique, techniques.run(technique, patcher, world), wanted[technique])
        assert torch.equal(techniques.run("plain", patcher, world), plain), "a plain run stays plain"

    @pytest.mark.parametrize("compile_model", COMPILED.values(), ids=COMPILED)
    @pytest.mark.parametrize("first", ["sag", "regions"])
    @pytest.mark.usefixtures("fresh_compiler")
    def test_before_a_plain_run(
        self, compile_model: Callable[[Any], Any], first: str, model: Any, world: World, wanted: dict[str, Tensor]
    ) -> None:
        patcher = compile_model(model)
        assert relative(techniques.run(first, patcher, world), wanted[first]) < 1e-3
        assert relative(techniques.run("plain", patcher, world), wanted["plain"]) < 1e-4

    def test_compiled_code_is_used_where_nobody_looks(
        self, counted: tuple[Any, list[int]], world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Twin: compiled calls do take place, and none of them sees a key of ours, which all others do."""
        (patched, calls), evaluate = counted, comfy.model_base.BaseModel._apply_model
        seen: list[tuple[bool, bool]] = []  # compiled, with a key of ours

        def watched(self: Any, x: Any, t: Any, concat: Any, text: Any, control: Any, options: dict, **more: Any) -> Any:
            ours, before = any(key.startswith("fovea") for key in options), len(calls)
            found = evaluate(self, x, t, concat, text, control, options, **more)
            seen.append((len(calls) > before, ours))
            return found

        monkeypatch.setattr(comfy.model_base.BaseModel, "_apply_model", watched)
        for technique, wanted in (
            ("plain", {(True, False)}), ("attention_map", {(False, True)}), ("best_of_n", {(True, False)}),
            ("sag", {(True, False), (False, True)}), ("regions", {(True, False), (False, True)}),
        ):  # fmt: skip
            seen.clear()
            techniques.run(technique, patched, world)
            assert set(seen) == wanted, technique

    @pytest.mark.parametrize("error", [Broken, InterruptProcessingException])
    def test_compiled_code_is_used_again_after_an_error(
        self, counted: tuple[Any, list[int]], world: World, error: type[BaseException]
    ) -> None:
        """In the middle of a call that goes past it."""
        patched, calls = counted
        plain = techniques.run("plain", patched, world)
        compiled, failing = len(calls), patched.clone()

        def fail(*_: Any, **__: Any) -> Any:
            raise error

        failing.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fail)
        with pytest.raises(error):
            techniques.run("sag", failing, world)
        assert compiled and len(calls) == compiled
        assert torch.equal(techniques.run("plain", patched, world), plain) and len(calls) == 2 * compiled


class TestBackends:
    def test_pytorchs_is_among_them(self) -> None:
        assert "attention_pytorch" in OTHERS or attention.optimized_attention is attention.attention_pytorch
        assert len(OTHERS) >= len(BACKENDS) - 1

    @pytest.mark.parametrize("backend", OTHERS)
    @pytest.mark.parametrize("technique", list(TECHNIQUES))
    def test_every_backend(
        self, technique: str, backend: str, model: Any, world: World, wanted: dict[str, Tensor],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(attention, "optimized_attention", getattr(attention, backend))
        assert alike(technique, techniques.run(technique, model, world), wanted[technique], 2e-3)


def wide_heads() -> Any:
    """The demo model with all channels in one head of 128: as wide as those of Flux, Qwen-Image, Wan and Z-Image."""
    facts, state = demo_model.manifest()["latents"], demo_model.load_part("unet")
    config = generator.ShapesWorldConfig(generator.ShapesWorldLatent(facts["scale_factor"]))
    config.unet_config = {**config.unet_config, "num_head_channels": 128}
    model = config.get_model(state, "")
    model.diffusion_model.load_state_dict(state, strict=False)
    return comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)


class Kernel:
    """Stands for SageAttention (at most 128 channels per head) and for kernels of some widths only: raises what they
    raise, and counts what it served."""

    def __init__(self, takes: Callable[[int], bool]) -> None:
        self.takes, self.served = takes, 0

    def override(self, func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *rest: Any, **more: Any) -> Tensor:
        """As a node that puts a kernel into the model."""
        self.check(q.shape[-1] if more.get("skip_reshape") else q.shape[-1] // heads)
        return func(q, k, v, heads, *rest, **more)

    def sageattn(self, q: Tensor, k: Tensor, v: Tensor, tensor_layout: str = "HND", is_causal: bool = False,
                 sm_scale: float | None = None, attn_mask: Tensor | None = None, **_: Any) -> Tensor:  # fmt: skip
        """As the function of the package, which ComfyUI calls under --use-sage-attention."""
        self.check(q.shape[-1])
        q, k, v = (t.transpose(1, 2) for t in (q, k, v)) if tensor_layout == "NHD" else (q, k, v)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=sm_scale)
        return out.transpose(1, 2) if tensor_layout == "NHD" else out

    def check(self, width: int) -> None:
        if not self.takes(width):
            raise ValueError(f"Unsupported head_dim: {width}")
        self.served += 1


class TestNarrowKernels:
    @pytest.fixture(scope="class")
    def wide(self) -> Any:
        with torch.inference_mode():
            return wide_heads()

    @pytest.fixture(scope="class")
    def wanted_wide(self, wide: Any, world: World) -> dict[str, Tensor]:
        return {name: techniques.run(name, wide, world) for name in TECHNIQUES}

    @pytest.mark.parametrize("technique", list(TECHNIQUES))
    def test_a_node_with_a_kernel_of_128_channels(
        self, technique: str, wide: Any, world: World, wanted_wide: dict[str, Tensor], caplog: pytest.LogCaptureFixture
    ) -> None:
        kernel, patched = Kernel(lambda width: width <= 128), wide.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = kernel.override
        with caplog.at_level(logging.WARNING):
            assert alike(technique, techniques.run(technique, patched, world), wanted_wide[technique])
        # Calls that nobody steers keep the kernel; regions that are hard to the end steer every one.
        assert kernel.served or technique == "hard_regions"
        told = [record for record in caplog.records if "attention" in record.message]
        assert len(told) == (technique in STEERS), [record.message for record in told]

    @pytest.mark.parametrize("technique", list(TECHNIQUES))
    def test_use_sage_attention(
        self, technique: str, wide: Any, world: World, wanted_wide: dict[str, Tensor],
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        kernel = Kernel(lambda width: width <= 128)
        monkeypatch.setattr(attention, "sageattn", kernel.sageattn, raising=False)
        monkeypatch.setattr(attention, "SAGE_ATTENTION_SUPPORTS_MASK", True)
        monkeypatch.setattr(attention, "optimized_attention", attention.attention_sage)
        with caplog.at_level(logging.WARNING):
            assert alike(technique, techniques.run(technique, wide, world), wanted_wide[technique])
        assert not [record for record in caplog.records if "attention" in record.message]
        assert kernel.served or technique in WITH_GRADIENTS, "calls that nobody steers keep the backend"

    @pytest.mark.parametrize("technique", list(TECHNIQUES))
    def test_a_kernel_of_some_widths(self, technique: str, model: Any, world: World, wanted: dict[str, Tensor]) -> None:
        """The demo model's heads have 32 channels; steered ones come in a width that kernels are made for."""
        kernel, patched = Kernel(lambda width: width in (32, 64, 96, 128)), model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = kernel.override
        assert alike(technique, techniques.run(technique, patched, world), wanted[technique])
        assert kernel.served

    def test_steered_calls_are_not_quantized(self, model: Any, world: World) -> None:
        """ComfyUI's word for that reaches another node's kernel with the steered calls, and only with those."""
        said: list[tuple[bool, int]] = []

        def override(func: Callable, q: Tensor, *rest: Any, **more: Any) -> Tensor:
            said.append((more.get("low_precision_attention", True), q.shape[-1] // rest[2]))
            return func(q, *rest, **more)

        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = override
        techniques.run("regions", patched, world)
        assert {(True, 32), (False, 64)} == set(said)


class TestPreferredBackends:
    """From ComfyUI 0.36 on, a checkpoint can name a layer's attention function, which an override makes ComfyUI forget.
    The version that tests run in knows no such layers: these stand for them."""

    class Layer(torch.nn.Module):
        def __init__(self, function: Callable | None) -> None:
            super().__init__()
            self.function = function

    @pytest.mark.parametrize("mixed", [False, True])
    def test_layers_that_nobody_steers_keep_theirs(
        self, mixed: bool, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []

        def preferred(q: Tensor, k: Tensor, v: Tensor, heads: int, *rest: Any, **more: Any) -> Tensor:
            asked.append(q.shape[-1] // heads)
            return attention.attention_pytorch(q, k, v, heads, *rest, **more)

        monkeypatch.setattr(attention, "ComfyAttention", self.Layer, raising=False)
        with torch.inference_mode():
            model = demo_model.load_model()
        blocks = [part for name, part in model.model.diffusion_model.named_modules() if name.endswith("attn1")]
        for number, block in enumerate(blocks):
            block.comfy_attention = self.Layer(None if mixed and number % 2 else preferred)
        techniques.run("plain", model, world)
        assert not asked, "only under an override has the pack to think of it"
        techniques.run("sag", model, world)
        assert set(asked) == {32} and len(asked) > 2
        found = len(asked)
        techniques.run("hard_regions", model, world)
        assert set(asked[found:]) <= {32}, "widened heads are not for it"


class TestHalfPrecision:
    """A network in half precision, not only its weights: the shapes of SD1.5, SDXL and Flux."""

    NEAR = {torch.float16: 0.01, torch.bfloat16: 0.08}  # plain runs of these models: 0.005 and 0.04 apart

    @pytest.fixture(scope="class", params=["sd15", "sdxl", "flux"])
    def small(self, request: pytest.FixtureRequest) -> tuple[dict[torch.dtype, Any], World, dict[str, Tensor]]:
        """A network in three precisions, and what every technique draws in single precision."""
        build = {
            "sd15": lambda: tiny.unet("sd15"),
            "sdxl": lambda: tiny.unet("sdxl", adm_in_channels=6 * 256 + tiny.CONTEXT),
            "flux": lambda: dit.build("flux", vec_in_dim=tiny.CONTEXT, guidance_embed=False),
        }[request.param]
        clip = tiny_encoders.encoder("flux")
        prompts = [prompt_encoding.encode(clip, text) for text in (PROMPT, "", "a plain green square")]
        start = dit.noise("flux", 16, 24) if request.param == "flux" else tiny.noise(16, 24)
        world, models = World(clip, None, None, *prompts, start), {}
        for dtype in (torch.float32, *self.NEAR):
            with torch.inference_mode():
                models[dtype] = build()
                models[dtype].model.diffusion_model.to(dtype).dtype = dtype
        return models, world, {name: techniques.run(name, models[torch.float32], world) for name in PATCHES}

    @pytest.mark.parametrize("technique", [name for name in PATCHES if name in DRAW and name != CHOOSES])
    def test_what_techniques_do_is_more_than_half_precision_does(self, technique: str, small: tuple) -> None:
        """Of blocks of noise there is nothing to choose: the grids are too coarse for that."""
        models, world, single = small
        without = techniques.without(technique, models[torch.float32], world)
        assert relative(single[technique], without) > 2 * self.NEAR[torch.bfloat16]

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("dtype", list(NEAR), ids=str)
    @pytest.mark.parametrize("technique", list(PATCHES))
    def test_near_single_precision(
        self, technique: str, dtype: torch.dtype, backend: str, small: tuple, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attention, "optimized_attention", getattr(attention, backend))
        monkeypatch.setattr(dit.FLUX.module, dit.FLUX.function, getattr(attention, backend))
        models, world, single = small
        got = techniques.run(technique, models[dtype], world)
        assert torch.isfinite(got).all()
        # A map shows which tokens are above a threshold: which of those near it are, other kernels decide otherwise.
        near = max(self.NEAR[dtype], 0.3 if technique == "attention_map" else 0)
        assert relative(got, single[technique]) < near
