"""Layout loss: the moved noise is what the paper's loss, written out, moves it to; it reaches every sampler."""

from __future__ import annotations

import logging
import math
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
import torch.nn.functional as F
from region_steps import PLACES, boxes, marked, steered, two_regions
from torch import Tensor

from fovea.guidance import starting_noise
from fovea.guidance.gradients import refusals
from fovea.guidance.gradients.errors import NoGradient
from fovea.guidance.region_start import layout_loss
from fovea.guidance.region_start.layout_loss import STEP
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.regions.score_bias import RegionBias
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.regions import FoveaDenseDiffusion

ITERATIONS = 2
OFF = RegionControl(RegionBias(), 0.0, 0.0, layout_iterations=ITERATIONS)
SIDE = 16  # the grid that counts, of latents with 32 pixels, in a UNet with levels of 32, 16, 8 and 4


def looking(model: Any) -> Any:
    patched = steered(model)
    starting_noise.install(patched, layout_loss.LAYOUT)
    return patched


def written_out(model: Any, noise: Tensor, prompt: list, regions: Regions, side: int = SIDE) -> tuple[Tensor, list]:
    """The noise after so many iterations, and the losses: from the queries and keys that the layers make, with hooks
    of PyTorch on the whole network."""
    network, sampling = model.model.diffusion_model, model.get_model_object("model_sampling")
    sigma = sampling.sigma_max.reshape(1)
    shares = torch.stack([F.adaptive_avg_pool2d(r.mask, side)[0].flatten() for r in regions.items], dim=1)
    seen: list[tuple[Tensor, Tensor, int]] = []
    handles = []
    for module in network.modules():
        if hasattr(module, "attn2"):
            attn, made = module.attn2, {}
            handles.append(attn.to_q.register_forward_hook(lambda m, i, o, made=made: made.update(q=o)))
            handles.append(
                attn.to_k.register_forward_hook(
                    lambda m, i, o, made=made, attn=attn: seen.append((made["q"], o, attn.heads))
                )
            )
    noise, losses = noise.clone(), []
    features = prompt[0][0].clone()
    pooled = {"y": torch.zeros(len(noise), 2816)} if network.num_classes is not None else {}
    try:
        for _ in range(ITERATIONS):
            leaf = noise.clone().requires_grad_()
            x = sampling.noise_scaling(sigma, leaf, torch.zeros_like(leaf), True)
            seen.clear()
            time = sampling.timestep(sigma).float().expand(len(x))
            context = features.expand(len(x), -1, -1)
            network(sampling.calculate_input(sigma, x), time, context, transformer_options={}, **pooled)
            loss = torch.zeros(len(noise))
            for q, k, heads in seen:
                if q.shape[1] != side**2:
                    continue
                q, k = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k))
                attended = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).mean(1)
                for r, places in enumerate(PLACES):
                    for place in places:
                        column = attended[:, :, place]
                        loss = loss + (1 - (column * shares[:, r]).sum(1) / column.sum(1)) ** 2 / len(places)
            losses.append(loss.detach())
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            gradient = gradient - gradient.mean((2, 3), keepdim=True)
            length = gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            noise = noise - STEP * math.sqrt(noise[0].numel()) * gradient / length
    finally:
        for handle in handles:
            handle.remove()
    return noise, losses


REGIONS = two_regions(boxes(32, 32))


@pytest.fixture(scope="module")
def model() -> Any:
    """Cross-attention on four levels, so that the one that counts is not the only one."""
    return tiny.unet("sd15", transformer_depth=[1, 1, 1, 1], transformer_depth_output=[1] * 8)


@pytest.fixture(scope="module")
def moved(model: Any) -> Tensor:
    return written_out(model, NOISE, tiny.prompt(1), REGIONS)[0]


NOISE = tiny.noise(32, 32, batch=2)


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-3) -> bool:
    return bool((got - wanted).abs().max() < tolerance * wanted.abs().max())


class TestAgainstTheLossWrittenOut:
    @pytest.mark.parametrize(
        "sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "er_sde", "euler_cfg_pp", "lcm"]
    )
    def test_every_sampler_begins_with_the_moved_noise(self, model: Any, moved: Tensor, sampler: str) -> None:
        prompt = tiny.prompt(1)
        got = tiny.sample(looking(model), NOISE, positive=marked(prompt, REGIONS, control=OFF), sampler=sampler)
        wanted = tiny.sample(model, moved, positive=prompt, sampler=sampler)
        assert close(got, wanted)
        assert not close(got, tiny.sample(model, NOISE, positive=prompt, sampler=sampler), 0.05)

    def test_the_loss_falls(self, model: Any) -> None:
        first, second = written_out(model, NOISE, tiny.prompt(1), REGIONS)[1]
        assert (second < first).all()

    def test_a_picture_does_not_depend_on_its_neighbors(self, model: Any) -> None:
        positive = marked(tiny.prompt(1), REGIONS, control=OFF)
        both, one = (tiny.sample(looking(model), noise, positive=positive) for noise in (NOISE, NOISE[1:]))
        assert close(both[1:], one)

    def test_a_mask_keeps_the_noise_of_what_is_kept(self, model: Any) -> None:
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., :16] = 1
        picture = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(5))
        seen: dict[str, Tensor] = {}

        def wrapper(
            executor: Any, guider: Any, sigmas: Any, extra: Any, callback: Any, noise: Tensor, *rest: Any
        ) -> Any:
            seen["noise"] = noise
            return executor(guider, sigmas, extra, callback, noise, *rest)

        patched = looking(model)
        kind = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
        patched.add_wrapper_with_key(kind, "test", wrapper)
        positive = marked(tiny.prompt(1), REGIONS, control=OFF)
        tiny.sample(patched, NOISE, positive=positive, latent=picture, noise_mask=mask)
        assert torch.equal(seen["noise"][..., 16:], NOISE[..., 16:])
        assert (seen["noise"] - NOISE)[..., :16].abs().max() > 0.1

    @pytest.mark.parametrize("part", [1.0, 0.25])
    def test_a_step_is_as_long_as_the_noise_is_inside(self, part: float) -> None:
        """Whatever the mask frees of the picture moves as far, and its mean not at all."""
        inside = torch.zeros(2, 4, 32, 32)
        inside[..., : round(32 * part)] = 1
        gradient = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(2)) + 1
        gradient[1, 0, 0, 0] = torch.nan
        step = layout_loss.steps(gradient, inside)
        assert step[0].square().sum() == pytest.approx(inside[0].sum().item(), rel=1e-4)
        assert step[0].mean((1, 2)).abs().max() < 1e-5 and (step[0] * (1 - inside[0])).abs().max() == 0
        assert step[1].abs().max() == 0, "a gradient that is none moves nothing"

    def test_prompts_that_comfyui_evaluates_apart_all_count(self, model: Any) -> None:
        """One for a part of the picture, one for all of it: the first alone would end the evaluation."""
        whole = marked(tiny.prompt(1), REGIONS, control=OFF)
        part = marked(tiny.prompt(3, area=(16, 16, 0, 0), strength=1.0), REGIONS, control=OFF)
        seen: list[int] = []
        plain = layout_loss.outside_share

        def watched(call: Any, row: Any, regions: Any) -> Any:
            seen.append(row.length + int(row.area is not None))
            return plain(call, row, regions)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout_loss, "outside_share", watched)
            tiny.sample(looking(model), NOISE[:1], positive=[*whole, *part])
        assert len(set(seen)) == 2

    def test_nothing_of_it_stays(self, model: Any) -> None:
        """Weights, hooks and options of the model: a plain run afterwards is the same to the bit."""
        before = tiny.sample(model, NOISE)
        tiny.sample(looking(model), NOISE, positive=marked(tiny.prompt(1), REGIONS, control=OFF))
        assert torch.equal(tiny.sample(model, NOISE), before)
        assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())

    def test_the_network_is_left_behind_the_last_layer_that_counts(self, model: Any) -> None:
        """What comes after it is run once per step of the run and never for the loss."""
        network, calls = model.model.diffusion_model, {"first": 0, "last": 0}
        count = lambda name: lambda *_: calls.__setitem__(name, calls[name] + 1)  # noqa: E731
        handles = [network.input_blocks[0][0].register_forward_hook(count("first")),
                   network.out.register_forward_hook(count("last"))]  # fmt: skip
        try:
            tiny.sample(looking(model), NOISE, positive=marked(tiny.prompt(1), REGIONS, control=OFF))
        finally:
            for handle in handles:
                handle.remove()
        assert calls["first"] - calls["last"] == ITERATIONS

    def test_zero_iterations_cost_nothing(self, model: Any) -> None:
        prompt = marked(tiny.prompt(1), REGIONS, control=RegionControl(RegionBias(), 0.0, 0.0))
        with tiny.watching(model) as calls:
            got = tiny.sample(looking(model), NOISE, positive=prompt)
        assert torch.equal(got, tiny.sample(model, NOISE)) and len(calls) == 3


@pytest.mark.parametrize("name", [name for name, kind in dit.KINDS.items() if not kind.gradients])
def test_kernels_without_a_gradient_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: without the refusal PyTorch says that there is no formula."""
    prompt = marked(dit.prompt(1), two_regions(boxes(32, 48)), ((1, 2), (5, 6)), OFF)
    with pytest.raises(NoGradient, match=r"in one kernel that has no gradient\..*Set layout_iterations to 0"):
        dit.sample(looking(dit.build(name)), dit.noise(name, 32, 48), positive=prompt)
    monkeypatch.setattr(refusals, "FUSED", ())
    with pytest.raises(RuntimeError, match="no autograd formula"):
        dit.sample(looking(dit.build(name)), dit.noise(name, 32, 48), positive=prompt)


@pytest.mark.parametrize("name", [name for name, kind in dit.KINDS.items() if kind.gradients])
def test_transformers_have_a_loss_that_falls(name: str) -> None:
    """The share of the attention to text that lies in the region grows, in the blocks that are read."""
    model, noise = dit.build(name), dit.noise(name, 32, 48, frames=2)
    regions = two_regions(boxes(32, 48))
    prompt = marked(dit.prompt(1), regions, ((1, 2), (5, 6)), OFF)
    losses: list[Tensor] = []
    plain = layout_loss.outside_share

    def watched(*given: Any) -> Any:
        losses.append(plain(*given))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_loss, "outside_share", watched)
        dit.sample(looking(model), noise, positive=prompt)
    half = len(losses) // ITERATIONS
    assert half > 0 and sum(losses[half:]).sum() < sum(losses[:half]).sum()


class TestRefusals:
    def test_what_gives_no_gradient_is_named_with_the_cure(self, model: Any) -> None:
        windows = tiny.windowed(looking(model))
        with pytest.raises(NoGradient, match=r"context windows.*Set layout_iterations to 0"):
            tiny.sample(windows, NOISE, positive=marked(tiny.prompt(1), REGIONS, control=OFF))

    def test_before_weights_are_touched(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        weights = [id(p) for p in model.model.parameters()]
        patched = looking(model)
        monkeypatch.setattr(type(patched), "is_dynamic", lambda self: True)
        with pytest.raises(NoGradient, match="dynamic VRAM"):
            tiny.sample(patched, NOISE, positive=marked(tiny.prompt(1), REGIONS, control=OFF))
        assert [id(p) for p in model.model.parameters()] == weights

    def test_runs_that_begin_with_a_picture_are_steered_only(
        self, model: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        positive = marked(tiny.prompt(1), REGIONS, control=OFF)
        with caplog.at_level(logging.WARNING):
            got = tiny.sample(looking(model), NOISE, positive=positive, denoise=0.5)
        assert torch.equal(got, tiny.sample(model, NOISE, denoise=0.5)) and "left as it is" in caplog.text


class TestTheNode:
    @pytest.fixture(scope="class")
    def given(self) -> dict[str, Any]:
        with torch.inference_mode():
            return {"model": demo_model.load_model(), "clip": demo_model.load_clip(), "prompt": techniques.PROMPT}

    def test_settings_travel_with_the_prompt(self, given: dict[str, Any]) -> None:
        with torch.inference_mode():
            _, positive, negative, _ = techniques.outputs(
                FoveaDenseDiffusion, **given, regions=techniques.halves(), layout_iterations=3
            )
        assert positive[0][1][MARK].control.layout_iterations == 3 and MARK not in negative[0][1]

    @pytest.mark.parametrize("mode", ["prompt", "concat"])
    def test_alone_it_acts_without_steering(self, given: dict[str, Any], mode: str) -> None:
        """cross_strength and self_strength 0 leave the layout loss; the moved noise is not plain noise."""
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
        settings = {"regions": techniques.halves(), "cross_strength": 0.0, "self_strength": 0.0, "mode": mode}
        pictures = []
        with torch.inference_mode():
            for iterations in (0, 3):
                patched, positive, negative, _ = techniques.outputs(
                    FoveaDenseDiffusion, **given, **settings, layout_iterations=iterations
                )
                pictures.append(tiny.sample(patched, noise, 4.0, 3, positive, negative))
        assert (pictures[0] - pictures[1]).abs().mean() > 0.05

    def test_nothing_asked_is_the_model_itself(self, given: dict[str, Any]) -> None:
        with torch.inference_mode():
            off = {"cross_strength": 0.0, "self_strength": 0.0, "layout_iterations": 0}
            patched, *_ = techniques.outputs(FoveaDenseDiffusion, **given, regions=techniques.halves(), **off)
        assert patched is given["model"]

    def test_the_region_of_an_unknown_place_moves_nothing(self, given: dict[str, Any]) -> None:
        """An empty prompt has no words to look for."""
        mask = torch.ones(1, 32, 32)
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            patched, positive, negative, _ = techniques.outputs(
                FoveaDenseDiffusion, **given, regions=Regions((Region(mask, ""),)), cross_strength=0.0,
                self_strength=0.0, layout_iterations=2,
            )  # fmt: skip
            got = tiny.sample(patched, noise, 4.0, 3, positive, negative)
            assert torch.equal(got, tiny.sample(given["model"], noise, 4.0, 3, positive, negative))
