"""Gradients through ComfyUI's guider with what users patch into a model; and what is put back afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import pytest
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from region_steps import marked, two_regions
from sag_steps import guided, relative
from torch import Tensor

from fovea.guidance.gradients import autograd, refusals
from fovea.guidance.gradients.errors import NoGradient
from fovea.guidance.noise_optimization import reversible_ode
from fovea.guidance.noise_optimization.guided_model import GuidedModel
from fovea.guidance.noise_optimization.reversible_ode import Denoise, Pair, Schedule
from fovea.guidance.regions import model_patch
from fovea.models.shapesworld import loader as demo_model
from tools.studies import meter

STEPS = 6


def patched(dtype: torch.dtype = torch.float32, with_sag: bool = True) -> Any:
    """SD1.5's shape with a LoRA, guidance and regions, made as nodes make it: in inference mode."""
    with torch.inference_mode():
        model = tiny.with_lora(tiny.unet("sd15", dtype=dtype))
        model = guided(model) if with_sag else model.clone()
        model_patch.install(model)
        return model


@pytest.fixture(scope="module")
def model() -> Any:
    return patched()


class Working(comfy.samplers.Sampler):
    """Lets a function use the guided model in place of sampling."""

    def __init__(self, work: Callable[[Denoise, Schedule, Callable], Tensor]) -> None:
        self.work = work

    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor,
               latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, *_: Any) -> Tensor:  # fmt: skip
        guided_model = GuidedModel(model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask)
        return guided_model.finished(self.work(guided_model.denoise, guided_model.schedule, guided_model.start_of))


def inside(model: Any, work: Callable[[Denoise, Schedule, Callable], Tensor], steps: int = STEPS, batch: int = 2,
           cfg: float = 5.0, conds: tuple[list, list] | None = None, start: Tensor | None = None,
           scheduler: str = "normal") -> Tensor:  # fmt: skip
    """Run `work` in a guided run of the autograd."""
    with torch.inference_mode():
        positive, negative = conds or (marked(tiny.prompt(1), two_regions()), tiny.prompt(2))
        start = tiny.noise(16, 16, batch) if start is None else start.clone()
    with autograd.outside_inference_mode():
        patcher = autograd.fully_loaded(model)
        autograd.with_backward(patcher)
        guider = comfy.samplers.CFGGuider(patcher)
        positive, negative = autograd.normal_copy(positive), autograd.normal_copy(negative)
        autograd.companions_to_normal_tensors(patcher, [options for _, options in (*positive, *negative)])
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), scheduler, steps)
        latent = torch.zeros_like(autograd.normal_copy(start))
        sampler = Working(work)
        return guider.sample(autograd.normal_copy(start), latent, sampler, sigmas, disable_pbar=True, seed=0)


def loss_gradient(end: Tensor) -> Tensor:
    return torch.randn(end.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float32).to(end.dtype)


def whole(mode: str, found: list, dtype: torch.dtype, start: Tensor | None = None) -> Callable:
    """Autograd through the whole run at once."""

    def work(denoise: Denoise, schedule: Schedule, start_of: Callable) -> Tensor:
        with torch.enable_grad():
            leaf = (tiny.noise(16, 16, 2) if start is None else start.clone()).to(dtype).requires_grad_()
            x = y = start_of(leaf)
            for i in range(schedule.steps):
                sigma, after = schedule.sigmas[i : i + 2]
                ahead = schedule.scales[i + 1] / schedule.scales[i]
                if mode == "checkpoint":
                    x = y = x + (after - sigma) * reversible_ode.eps(denoise, x, sigma)
                    continue
                x, y = (x, y) if i % 2 == 0 else (y, x)
                x = x + (after - sigma) * reversible_ode.eps(denoise, y, sigma)
                y = y + (after - sigma) * reversible_ode.eps(denoise, ahead * x, sigma)
                x, y = (x, y) if i % 2 == 0 else (y, x)  # mixed is the first latent first, in every step
                x = 0.93 * x + 0.07 * y
                y = 0.93 * y + 0.07 * x
            loss = (x * loss_gradient(x)).sum() + (0 if mode == "checkpoint" else (y * loss_gradient(y)).sum())
            found.extend(torch.autograd.grad(loss, leaf))
        return x.detach()

    return work


def stepwise(mode: str, found: list, dtype: torch.dtype, batch: int = 2, start: Tensor | None = None) -> Callable:
    """The pack's way."""

    def work(denoise: Denoise, schedule: Schedule, start_of: Callable) -> Tensor:
        with torch.enable_grad():
            leaf = (tiny.noise(16, 16, batch) if start is None else start.clone()).to(dtype).requires_grad_()
            first = start_of(leaf)
        if mode == "checkpoint":
            states = reversible_ode.euler(denoise, schedule, first.detach())
            gradient = reversible_ode.euler_gradient(denoise, schedule, states, loss_gradient(first))
            end = states[-1]
        else:
            pair = reversible_ode.edict(denoise, schedule, Pair(first.detach(), first.detach()))
            weight = loss_gradient(first)
            _, both = reversible_ode.edict_gradient(denoise, schedule, pair, Pair(weight, weight))
            gradient, end = both.x + both.y, pair.x
        found.extend(torch.autograd.grad(first, leaf, gradient))
        return end

    return work


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("mode", ["checkpoint", "invertible"])
def test_gradient_is_that_of_the_whole_run(mode: str, dtype: torch.dtype, tolerance: float) -> None:
    model = patched(dtype)
    wanted: list[Tensor] = []
    got: list[Tensor] = []
    ends = inside(model, whole(mode, wanted, dtype)), inside(model, stepwise(mode, got, dtype))
    assert relative(ends[1], ends[0]) < tolerance and relative(got[0], wanted[0]) < tolerance
    assert float(wanted[0].norm()) > 1


@pytest.mark.parametrize("dtype, least", [(torch.float16, 0.999), (torch.bfloat16, 0.97)])
def test_half_precision_keeps_the_direction(dtype: torch.dtype, least: float) -> None:
    """Of a model whose weights are halves, with a loss so small that its gradient would vanish in them."""
    found: dict[torch.dtype, Tensor] = {}
    models = {kind: patched(kind, with_sag=False) for kind in (torch.float32, dtype)}
    with torch.inference_mode():
        for exact, half in zip(*(model.model.parameters() for model in models.values())):
            exact.copy_(half)
    for kind, model in models.items():
        got: list[Tensor] = []

        def work(denoise: Denoise, schedule: Schedule, start_of: Callable, got: list = got) -> Tensor:
            states = reversible_ode.euler(denoise, schedule, start_of(tiny.noise(16, 16)))
            got.append(reversible_ode.euler_gradient(denoise, schedule, states, 1e-9 * loss_gradient(states[0])))
            return states[-1]

        inside(model, work, steps=3, batch=1)
        found[kind] = got[0].double()
    a, b = found.values()
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > least


def test_controlnet() -> None:
    """Made and used before in inference mode, as in a server."""
    model = patched(torch.float32, with_sag=False)
    with torch.inference_mode():
        _, control = tiny.controlnet()
        hint = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))
        extra = {"control": control.copy().set_cond_hint(hint, 1.0), "control_apply_to_uncond": False}
        conds = marked(tiny.prompt(1, **extra), two_regions()), tiny.prompt(2, **extra)
        tiny.sample(model, tiny.noise(16, 16), 5.0, 2, *conds)
    wanted: list[Tensor] = []
    got: list[Tensor] = []
    inside(model, whole("checkpoint", wanted, torch.float32), conds=conds)
    inside(model, stepwise("checkpoint", got, torch.float32), conds=conds)
    without: list[Tensor] = []
    inside(model, stepwise("checkpoint", without, torch.float32))
    assert relative(got[0], wanted[0]) < 1e-4 and relative(without[0], wanted[0]) > 1e-2


@pytest.mark.parametrize("name", ["flux", "sd3", "qwen"])  # the last has an axis for frames
@pytest.mark.parametrize("mode", ["checkpoint", "invertible"])
def test_flow_models(name: str, mode: str) -> None:
    with torch.inference_mode():
        model, start = dit.build(name), dit.noise(name, 8, 8, batch=2)
        conds = dit.prompt(1), dit.prompt(2)
    wanted: list[Tensor] = []
    got: list[Tensor] = []
    settings = {"conds": conds, "start": start, "scheduler": "simple", "cfg": 3.0}
    inside(model, whole(mode, wanted, torch.float32, start), **settings)
    inside(model, stepwise(mode, got, torch.float32, start=start), **settings)
    assert relative(got[0], wanted[0]) < 1e-4 and float(wanted[0].norm()) > 0.1


def test_ddim_uniform(model: Any) -> None:
    """Its first noise level is not the model's last one, which takes another way through the autograd."""
    wanted: list[Tensor] = []
    got: list[Tensor] = []
    inside(model, whole("checkpoint", wanted, torch.float32), scheduler="ddim_uniform")
    inside(model, stepwise("checkpoint", got, torch.float32), scheduler="ddim_uniform")
    assert relative(got[0], wanted[0]) < 1e-4 and float(wanted[0].norm()) > 1


def test_gradient_says_where_the_loss_goes() -> None:
    """By a step along it. Without SAG, whose mask jumps where saliency crosses its threshold."""
    model = patched(torch.float64, with_sag=False)
    gradient: list[Tensor] = []
    end = inside(model, stepwise("checkpoint", gradient, torch.float64))
    unit = gradient[0] / gradient[0].norm()

    def moved(denoise: Denoise, schedule: Schedule, start_of: Callable) -> Tensor:
        return reversible_ode.euler(denoise, schedule, start_of(tiny.noise(16, 16, 2).double() + 1e-3 * unit))[-1]

    change = model.model.process_latent_in(inside(model, moved) - end).double() * loss_gradient(end).double()
    assert float(change.sum()) == pytest.approx(1e-3 * float(gradient[0].norm()), rel=0.02)


@pytest.mark.parametrize("mode", ["checkpoint", "invertible"])
def test_memory_does_not_grow_with_steps(model: Any, mode: str) -> None:
    def run(steps: int) -> Tensor:
        return inside(model, stepwise(mode, [], torch.float32, 1), steps, 1)

    peaks = [meter.peak_bytes(lambda n=n: run(n), tiny.CPU) for n in (5, 50)]
    assert peaks[1] <= 1.05 * peaks[0]


def test_nothing_is_left_behind(model: Any) -> None:
    """Plain runs before and after are the same, also after a failure; no flag and no gradient stays."""
    prompt = marked(tiny.prompt(1), two_regions())
    before = tiny.sample(model, tiny.noise(16, 16), 5.0, 2, prompt)
    inside(model, stepwise("checkpoint", [], torch.float32))

    def failing(denoise: Denoise, schedule: Schedule, start_of: Callable) -> Tensor:
        denoise(tiny.noise(16, 16), schedule.sigmas[0])
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        inside(model, failing)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        inside(model, stepwise("invertible", [], torch.float32))
    assert not comfy.model_management.in_training
    assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())
    assert "optimized_attention_override" not in model.model_options["transformer_options"]
    assert torch.equal(tiny.sample(model, tiny.noise(16, 16), 5.0, 2, prompt), before)


def test_weights_made_in_inference_mode_become_ordinary() -> None:
    with torch.inference_mode():
        network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
        values = [t.clone() for t in network.state_dict().values()]
    autograd.to_normal_tensors(network)
    assert not any(t.is_inference() or t.requires_grad for t in (*network.parameters(), *network.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), values))


def test_locked_weights_are_released_before_they_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI knows them by their address, and would count them as locked for ever."""
    with torch.inference_mode():
        patcher = tiny.unet("shallow")
    released = list[int]()
    monkeypatch.setattr(comfy.model_management, "pin_memory", lambda tensor: True)
    monkeypatch.setattr(comfy.model_management, "unpin_memory", lambda tensor: released.append(tensor.data_ptr()))
    key = "diffusion_model.out.2.weight"
    patcher.pin_weight_to_device(key)
    locked = patcher.model.diffusion_model.out[2].weight.data_ptr()
    with autograd.outside_inference_mode():
        clone = autograd.fully_loaded(patcher)
    assert released == [locked] and not clone.pinned and not patcher.pinned
    assert patcher.model.diffusion_model.out[2].weight.data_ptr() != locked, "twin: it was replaced"


def easycache(model: Any) -> Any:
    return EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]


def lazycache(model: Any) -> Any:
    return LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]


@pytest.mark.parametrize(
    "change, named",
    [(easycache, "easycache"), (lazycache, "lazycache"), (tiny.windowed, "context windows"),
     (lambda model: guided(model, every_n_steps=2), "every"), (lambda model: guided(model, mask_mode="soft"), "soft")],
)  # fmt: skip
def test_what_would_lose_gradient_is_refused_by_name(change: Callable[[Any], Any], named: str) -> None:
    def refuse(patcher: Any) -> None:
        refusals.refuse_what_loses_gradient(patcher)
        refusals.refuse_what_guidance_hides(patcher)

    refuse(guided(tiny.unet("sd15")))
    with pytest.raises(NoGradient, match=named):
        refuse(change(tiny.unet("sd15")))


def test_weight_hooks_are_refused() -> None:
    with pytest.raises(NoGradient, match="hooks"):
        refusals.refuse_what_loses_gradient(tiny.unet("sd15"), [{"hooks": object()}])


def test_a_model_that_answers_otherwise_is_refused(model: Any) -> None:
    """As one does that draws random numbers, or that lost its gradient on the way."""

    def noisy(denoise: Denoise, schedule: Schedule, start_of: Callable) -> Tensor:
        def other(x: Tensor, sigma: float) -> Tensor:
            return denoise(x, sigma) + torch.randn_like(x)

        return stepwise("checkpoint", [], torch.float32)(other, schedule, start_of)

    def cut(denoise: Denoise, schedule: Schedule, start_of: Callable) -> Tensor:
        return stepwise("checkpoint", [], torch.float32)(lambda x, s: denoise(x, s).detach(), schedule, start_of)

    for work, said in ((noisy, "evaluated again"), (cut, "no gradient")):
        with pytest.raises(NoGradient, match=said):
            inside(model, work)


def test_several_gpus_are_refused() -> None:
    patcher = tiny.unet("sd15")
    patcher.set_additional_models("multigpu", [patcher.clone()])
    with pytest.raises(NoGradient, match="several GPUs"):
        refusals.refuse_what_loses_gradient(patcher)


@pytest.mark.parametrize("load", [demo_model.load_model, lambda: demo_model.load_vae().patcher], ids=["model", "vae"])
def test_streamed_weights_are_loaded_anew(load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A patcher with dynamic VRAM, which only GPUs have: its clone has weights of its own that stay."""
    with torch.inference_mode():
        patcher = load()
        monkeypatch.setattr(type(patcher), "is_dynamic", lambda self: self is patcher)
    with autograd.outside_inference_mode():
        clone = autograd.fully_loaded(patcher)
    theirs, ours = dict(patcher.model.named_parameters()), dict(clone.model.named_parameters())
    assert clone.model is not patcher.model and theirs.keys() == ours.keys()
    for name, parameter in ours.items():
        assert not parameter.is_inference() and torch.equal(parameter, theirs[name])
        assert parameter.data_ptr() != theirs[name].data_ptr()


def test_streamed_weights_without_a_way_to_load_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    patcher = tiny.unet("sd15")
    monkeypatch.setattr(type(patcher), "is_dynamic", lambda self: self is patcher)
    with pytest.raises(NoGradient, match="disable-dynamic-vram"):
        autograd.fully_loaded(patcher)
