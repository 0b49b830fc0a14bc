"""Best of N in real runs of ComfyUI: what it finds is what a sampler draws of its noise, whatever is in the model."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.taesd.taehv
import lora_files
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_api.latest import io
from comfy_execution.caching import CacheKeySetInputSignature
from comfy_execution.graph import DynamicPrompt
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from execution import IsChangedCache
from torch import Tensor

import nodes as comfy_nodes
from fovea.guidance.gradients.errors import NoGradient
from fovea.guidance.noise_optimization import candidate_sampler, noise_sampler
from fovea.guidance.noise_optimization.decoding import Decoder
from fovea.guidance.noise_optimization.losses import picture_score
from fovea.guidance.noise_optimization.trial import Trial
from fovea.guidance.regions.masks import Region, Regions
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes import noise_optimization
from fovea.nodes.experts import FoveaExpert, FoveaExpertSwitch
from fovea.nodes.noise_optimization import FoveaBestOfN, FoveaOptimizeLatent
from fovea.nodes.region_start import FoveaRegionStart
from fovea.nodes.regions import FoveaDenseDiffusion
from fovea.nodes.sag import FoveaSelfAttentionGuidance

STEPS, CFG, SEED = 4, 4.0, 5
SIDE = 16  # of latents: a third of the time of the 32 that the model was trained on
ROOM = {"latent_image": {"samples": torch.zeros(1, 4, 32, 32)}}  # for layouts, which find nothing to choose in 16


@pytest.fixture(scope="module")
def world() -> techniques.World:
    return techniques.shapesworld(SIDE)


@pytest.fixture(scope="module")
def model() -> Any:
    with torch.inference_mode():
        return demo_model.load_model()


def search(model: Any, world: techniques.World, node: Any = FoveaBestOfN, **changes: Any) -> tuple:
    given = {"vae": world.vae, "positive": world.positive, "negative": world.negative, "scorer": world.scorer,
             "prompt": techniques.PROMPT, "latent_image": {"samples": torch.zeros(1, 4, SIDE, SIDE)}, "steps": STEPS,
             "cfg": CFG, "seed": SEED, "candidates": 6, "rounds": 1}  # fmt: skip
    with torch.inference_mode():
        return techniques.outputs(node, model=model, **{**given, **changes})


def again(model: Any, world: techniques.World, noise: Any, sampler: str = "euler", **changes: Any) -> Tensor:
    """A sampler's picture of a NOISE, as SamplerCustomAdvanced draws it."""
    given = {"positive": world.positive, "negative": world.negative, "cfg": CFG, "steps": STEPS,
             "latent_image": {"samples": torch.zeros(1, 4, SIDE, SIDE)}, **changes}  # fmt: skip
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(given["positive"], given["negative"])
    guider.set_cfg(given["cfg"])
    sigmas = comfy.samplers.KSampler(model, given["steps"], tiny.CPU, sampler, "normal").sigmas
    with torch.inference_mode():
        return SamplerCustomAdvanced.execute(
            noise, guider, comfy.samplers.sampler_object(sampler), sigmas, given["latent_image"]
        ).result[0]["samples"]  # fmt: skip


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def number_of(found: tuple) -> int:
    """How many trials a report tells of."""
    (line,) = [line for line in found[5].splitlines() if "trials" in line and "picture" not in line]
    return int(line.split()[0])


class TestIdentity:
    """The winner equals a sampler's picture of its NOISE, to 1e-5 at the same batch size."""

    @pytest.mark.parametrize(
        "sampler", ["euler", "heun", "ddim", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde_gpu"]
    )  # fmt: skip
    def test_every_kind_of_sampler(self, model: Any, world: techniques.World, sampler: str) -> None:
        found = search(model, world, sampler_name=sampler, rounds=2)
        assert apart(again(model, world, found[3], sampler), found[0]["samples"]) < 1e-5
        assert number_of(found) == 6
        remembers = sampler in ("dpmpp_2m", "uni_pc", "dpmpp_2m_sde_gpu")
        assert (f"sampled again from their noise: {sampler}" in found[5]) == remembers

    @pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m"])
    def test_larger_batches_round_differently_and_no_more(
        self, model: Any, world: techniques.World, sampler: str
    ) -> None:
        single, batch = (search(model, world, sampler_name=sampler, batch_size=size) for size in (1, 4))
        assert torch.equal(single[3].noise, batch[3].noise), "the same candidate wins"
        assert apart(again(model, world, batch[3], sampler), batch[0]["samples"]) < 1e-3

    def test_the_pictures_of_a_batch(self, model: Any, world: techniques.World) -> None:
        """Each keeps its own best; the noise of an SDE sampler is that of its own seed, which the report names."""
        latent = {"samples": torch.zeros(3, 4, SIDE, SIDE)}
        found = search(model, world, latent_image=latent)
        assert apart(again(model, world, found[3], latent_image=latent), found[0]["samples"]) < 1e-5
        found = search(model, world, latent_image=latent, sampler_name="euler_ancestral", seed=8)
        (line,) = [line for line in found[5].splitlines() if line.startswith("noise that samplers draw")]
        seeds = [int(word) for word in line.replace(",", "").split() if word.isdigit()]
        assert len(seeds) == 3 and len(set(seeds)) > 1
        for place, seed in enumerate(seeds):
            noise = copy.copy(found[3])
            noise.seed = seed
            drawn = again(model, world, noise, "euler_ancestral", latent_image=latent)
            assert apart(drawn[place], found[0]["samples"][place]) < 1e-5

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("sampler", ["euler", "ddim"])
    def test_inpainting(self, model: Any, world: techniques.World, sampler: str, soft: bool) -> None:
        picture = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
        mask = torch.zeros(1, 1, 256, 256)
        mask[..., :128] = 1
        mask[..., 128:192] = 0.5 * soft
        latent = {"samples": picture, "noise_mask": mask}
        found = search(model, world, latent_image=latent, sampler_name=sampler, batch_size=2 - soft)
        drawn = again(model, world, found[3], sampler, latent_image=latent)
        assert apart(drawn, found[0]["samples"]) < (1e-5 if soft else 1e-3)
        assert torch.allclose(found[0]["samples"][..., 24:], picture[..., 24:], atol=1e-5)
        assert float(found[3].noise[..., 16:24].std()) == pytest.approx(1, abs=0.1), "as strong where the mask is gray"

    def test_cfg_one(self, model: Any, world: techniques.World) -> None:
        found = search(model, world, cfg=1.0)
        assert apart(again(model, world, found[3], cfg=1.0), found[0]["samples"]) < 1e-5


def with_sag(model: Any, world: techniques.World, every: int = 1) -> tuple:
    (patched,) = techniques.outputs(FoveaSelfAttentionGuidance, model=model, every_n_steps=every)
    return patched, world.positive, world.negative


def with_regions(model: Any, world: techniques.World, iterations: int = 1) -> tuple:
    given = {"model": model, "clip": world.clip, "regions": techniques.halves(), "prompt": techniques.PROMPT}
    return techniques.outputs(FoveaDenseDiffusion, **given, arranged_noises=2, layout_iterations=iterations)[:3]


def with_start(model: Any, world: techniques.World) -> tuple:
    given = {"regions": techniques.halves(), "background": techniques.PROMPT, "vae": world.vae}
    return techniques.outputs(FoveaRegionStart, model=model, **given)[0], world.positive, world.negative


def with_experts(model: Any, world: techniques.World, decide: str = "sigma") -> tuple:
    (second,) = techniques.outputs(FoveaSelfAttentionGuidance, model=demo_model.load_model())
    (chain,) = techniques.outputs(FoveaExpert, model=second, boundary_unit="percent", boundary=0.5)
    patched, *_ = techniques.outputs(FoveaExpertSwitch, model=model, experts=chain, decide_by=decide)
    return patched, world.positive, world.negative


def with_arranged_experts(model: Any, world: techniques.World) -> tuple:
    """Noise that is arranged by what the model looks at, beside an expert of the same weights with a LoRA."""
    regions, positive, negative = with_regions(model, world, 0)
    low = comfy.sd.load_lora_for_models(model, None, lora_files.weights(model, 1), 1.0, 0.0)[0]  # of the same weights
    (chain,) = techniques.outputs(FoveaExpert, model=low, boundary_unit="percent", boundary=0.5)
    return techniques.outputs(FoveaExpertSwitch, model=regions, experts=chain)[0], positive, negative


def with_keyframes(model: Any, world: techniques.World) -> tuple:
    hooks = comfy.hooks.create_hook_lora(lora_files.weights(model, 1, lambda name: "attn2" in name), 1.0, 0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, percent in ((1.0, 0.0), (0.0, 0.5)):
        keyframes.add(comfy.hooks.HookKeyframe(strength, percent))
    hooks.set_keyframes_on_hooks(keyframes)
    return model, [[tensor, {**options, "hooks": hooks}] for tensor, options in world.positive], world.negative


def with_momentum(model: Any, world: techniques.World) -> tuple:
    return APG.execute(model, 1.0, 5.0, 0.6).result[0], world.positive, world.negative


MODELS: dict[str, Callable[[Any, techniques.World], tuple]] = {
    "SAG": with_sag, "regions": with_regions, "a start": with_start, "experts": with_experts,
    "SAG every second step": lambda model, world: with_sag(model, world, 2),
    "experts, monotonic": lambda model, world: with_experts(model, world, "monotonic"),
    "APG with momentum": with_momentum, "a LoRA's keyframes": with_keyframes,
}  # fmt: skip


class TestModels:
    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("name", list(MODELS))
    def test_what_other_nodes_do_stays(self, model: Any, world: techniques.World, name: str, batch: int) -> None:
        """In every batch, also where a node remembers earlier steps, which then begin anew."""
        with torch.inference_mode():
            patched, positive, negative = MODELS[name](model, world)
        latent = ROOM if name == "regions" else {}
        given = {"positive": positive, "negative": negative, **latent}
        found = search(patched, world, rounds=2, batch_size=batch, **given)
        drawn = again(patched, world, found[3], **given)
        assert apart(drawn, found[0]["samples"]) < (1e-5 if batch == 1 else 2e-3)
        plain = again(model, world, found[3], **latent)
        assert apart(plain, found[0]["samples"]) > 1e-2, "twin: the nodes did something"
        remembers = name in ("SAG every second step", "experts, monotonic", "APG with momentum", "a LoRA's keyframes")
        assert ("sampled again" in found[5]) == remembers


def last_is_best(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of all candidates; returns the numbers of those that were judged."""
    real, judged = Trial.judge, list[int]()

    def later_is_better(self: Trial, latents: Tensor, decode: Decoder) -> tuple[Tensor, Tensor]:
        losses, pictures = real(self, latents, decode)
        judged.append(len(judged))
        return torch.full_like(losses, -judged[-1]), pictures

    monkeypatch.setattr(Trial, "judge", later_is_better)
    return judged


def sides(count: int) -> Tensor:
    """A mask per picture [count, 256, 256], each of another half."""
    masks = torch.zeros(count, 256, 256)
    for at, mask in enumerate(masks):
        mask[:, 128 * (at % 2) : 128 * (at % 2) + 128] = 1
    return masks


def masked_prompts(model: Any, world: techniques.World) -> tuple:
    """The star on one side of every picture, the green square on the other, in turn."""
    star, square = (
        [[tensor, {**options, "mask": mask, "set_area_to_bounds": False, "mask_strength": 1.0}]
         for tensor, options in prompt]
        for prompt, mask in ((world.positive, sides(2)), (world.styled, sides(2).flip(0)))
    )  # fmt: skip
    return model, [*star, *square], world.negative


def prompt_per_picture(model: Any, world: techniques.World) -> tuple:
    texts = [[torch.cat([world.positive[0][0], world.styled[0][0]]), world.positive[0][1]]]
    return model, texts, world.negative


def controlled(_model: Any, _world: techniques.World) -> tuple:
    _, control = tiny.controlnet()
    hints = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    extra = {"control": control.set_cond_hint(hints, 1.0), "control_apply_to_uncond": False}
    return tiny.unet("sd15"), tiny.prompt(1, **extra), tiny.prompt(2, **extra)


def sag_with_masks(model: Any, world: techniques.World) -> tuple:
    (patched,) = techniques.outputs(FoveaSelfAttentionGuidance, model=model, mask=sides(2), scale=2.0)
    return patched, world.positive, world.negative


def regions_with_masks(model: Any, world: techniques.World) -> tuple:
    regions = Regions((Region(sides(2), "a plain red star"), Region(1 - sides(2), "a striped blue circle")))
    given = {"model": model, "clip": world.clip, "regions": regions, "prompt": techniques.PROMPT}
    return techniques.outputs(FoveaDenseDiffusion, **given)[:3]


def expert_with_masks(model: Any, world: techniques.World) -> tuple:
    _, positive, negative = masked_prompts(model, world)
    given = {"model": demo_model.load_model(), "boundary_unit": "percent", "boundary": 0.2}
    (chain,) = techniques.outputs(FoveaExpert, **given, positive=positive, negative=negative)
    return techniques.outputs(FoveaExpertSwitch, model=model, experts=chain)[0], world.positive, world.negative


PER_PICTURE: dict[str, Callable[[Any, techniques.World], tuple]] = {
    each.__name__: each for each in (masked_prompts, prompt_per_picture, controlled, sag_with_masks,
                                     regions_with_masks, expert_with_masks)
}  # fmt: skip


def test_noise_is_arranged_by_the_main_model(
    model: Any, world: techniques.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by whoever the candidate before has ended with."""
    last_is_best(monkeypatch)
    with torch.inference_mode():
        patched, positive, negative = with_arranged_experts(model, world)
    given = {"positive": positive, "negative": negative, **ROOM}
    found = search(patched, world, candidates=3, rounds=0, **given)
    assert apart(again(patched, world, found[3], **given), found[0]["samples"]) < 1e-5


class TestInputsOfEveryPicture:
    """Of two pictures each, in the latent's own batch of one, two, three. (Prompts with two masks are an error of
    ComfyUI's in a batch of three.)"""

    @pytest.mark.parametrize(("name", "places"), [
        *[(name, places) for name in PER_PICTURE for places in (1, 2)], ("prompt_per_picture", 3), ("controlled", 3),
    ])  # fmt: skip
    def test_stay_with_their_pictures(
        self, model: Any, world: techniques.World, name: str, places: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last candidate, which is said to be the best. Twin: where their number divides the batch's, candidates
        still share batches."""
        judged = last_is_best(monkeypatch)
        with torch.inference_mode():
            patched, positive, negative = PER_PICTURE[name](model, world)
        latent = {"samples": torch.zeros(places, 4, SIDE, SIDE)}
        given = {"positive": positive, "negative": negative, "latent_image": latent, "steps": 2}
        found = search(patched, world, candidates=4, rounds=0, batch_size=4, **given)
        assert len(judged) == 4
        assert apart(again(patched, world, found[3], **given), found[0]["samples"]) < (2e-3 if places == 2 else 1e-5)
        said = f"one at a time: prompts, masks or ControlNets are for 2 pictures, the latent has {places}"
        assert (said in found[5]) == (places != 2)

    def test_of_one_are_no_reason(self, model: Any, world: techniques.World) -> None:
        for name in ("SAG", "regions", "experts"):
            with torch.inference_mode():
                patched, positive, negative = MODELS[name](model, world)
            found = search(patched, world, candidates=2, rounds=0, batch_size=2, steps=2, positive=positive,
                           negative=negative)  # fmt: skip
            assert "one at a time" not in found[5], name


class Frames:
    """A decoder of videos with ComfyUI's names: the latent's first three channels, every value a square of pixels.
    decoded: the shapes that it was given."""

    latent_dim, vae_dtype, device = 3, torch.float32, tiny.CPU

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoded: list[tuple[int, ...]] = []

        def decode(self, latents: Tensor) -> Tensor:
            self.decoded.append(tuple(latents.shape))
            return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)

    def __init__(self) -> None:
        self.patcher = comfy.model_patcher.ModelPatcher(self.Network(), tiny.CPU, tiny.CPU)

    @staticmethod
    def process_output(pictures: Tensor) -> Tensor:
        return pictures.sigmoid()


class TestLatentsWithAFrameAxis:
    @pytest.mark.parametrize("kind, frames", [("wan", 5), ("wan", 1), ("qwen", 1)])
    def test_are_searched(self, world: techniques.World, kind: str, frames: int) -> None:
        """The winner is a sampler's; of all candidates it has the best mean loss of its first, middle and last frame;
        all of its frames are returned."""
        model, start = dit.build(kind), dit.noise(kind, 8, 8, frames=frames)
        vae, conds = Frames(), {"positive": dit.prompt(1), "negative": dit.prompt(2)}
        given = {"vae": vae, "latent_image": {"samples": start * 0}, **conds}
        found = search(model, world, candidates=4, **given)
        drawn = again(model, world, found[3], latent_image=given["latent_image"], **conds)
        assert found[0]["samples"].shape == start.shape and apart(drawn, found[0]["samples"]) < 1e-5
        assert found[1].shape == (frames, 64, 64, 3)
        whole = search(model, world, candidates=4, rounds=0, **given)
        losses = []
        for number in range(4):
            noises = [*noise_sampler.candidate_noises(comfy.sample.prepare_noise(start * 0, SEED), SEED, 4)]
            noise = copy.copy(found[3])
            noise.noise = noises[number]
            sampled = model.model.process_latent_in(
                again(model, world, noise, latent_image=given["latent_image"], **conds)
            )
            pictures = vae.patcher.model.decode(model.model.process_latent_out(sampled)).sigmoid()[0].movedim(1, 0)
            seen = pictures[sorted({0, frames // 2, frames - 1})]
            small = torch.nn.functional.interpolate(seen, size=(128, 128), mode="bilinear", antialias=True)
            target = world.scorer.target(techniques.PROMPT)
            losses.append(float(world.scorer.losses(small, target).mean()))
        assert float(whole[5].split()[5]) == pytest.approx(min(losses), abs=1e-4), whole[5]

    def test_a_decoder_of_pictures_previews_frame_by_frame(self) -> None:
        vae, latent = Frames(), dit.noise("wan", 8, 8, frames=5, batch=2)
        vae.latent_dim = 2
        frames = Decoder(vae, vae.patcher.model, lambda x: x).frames(latent)
        assert frames.shape == (2, 3, 3, 64, 64) and all(len(shape) == 4 for shape in vae.patcher.model.decoded)
        vae.latent_dim = 3
        torch.testing.assert_close(Decoder(vae, vae.patcher.model, lambda x: x).frames(latent), frames)
        torch.testing.assert_close(frames[:, 1, :, ::8, ::8], latent[:, :3, 2].sigmoid())

    @pytest.mark.parametrize("latent_dim", [2, 3])
    def test_each_frame_has_its_own_scale(self, latent_dim: int) -> None:
        """Of latent formats that tell a value for each channel, with the axes of a video."""
        vae, latent = Frames(), dit.noise("wan", 8, 8, frames=3, batch=2)
        vae.latent_dim = latent_dim
        process_out = comfy.latent_formats.Wan21().process_out
        wanted = process_out(latent)[:, :3].sigmoid()
        decode = Decoder(vae, vae.patcher.model, process_out)
        torch.testing.assert_close(decode.frames(latent)[..., ::8, ::8].movedim(1, 2), wanted)
        torch.testing.assert_close(decode.whole(latent)[..., ::8, ::8], wanted.movedim(2, 1).flatten(0, 1))
        torch.testing.assert_close(decode(latent[:, :, :1])[..., ::8, ::8], wanted[:, :, 0])

    def test_a_tiny_decoder_of_videos_gives_the_whole_gradient(self) -> None:
        """ComfyUI's, which makes four frames of one latent and, frame by frame, cuts the gradient off between them."""
        network = comfy.taesd.taehv.TAEHV(dit.CHANNELS).eval().requires_grad_(False)
        tiny.initialize(network, 0, 1.0)
        vae, start = Frames(), dit.noise("qwen", 8, 8)

        def gradient(decode: Callable[[Tensor], Tensor]) -> Tensor:
            leaf = start.clone().requires_grad_()
            return torch.autograd.grad(decode(leaf)[:, :, -64:, -64:].square().sum(), leaf)[0]

        got = gradient(Decoder(vae, network, lambda x: x))
        assert network.parallel is False
        apart_ = gradient(lambda latents: network.decode(latents)[:, :, 0].sigmoid())
        network.parallel = True
        torch.testing.assert_close(got, gradient(lambda latents: network.decode(latents)[:, :, 0].sigmoid()))
        assert apart(apart_, got) > 1e-3, "twin: a part of it"

    @pytest.mark.parametrize("gradient_path", ["past_model", "all_steps"])
    def test_one_frame_is_optimized(self, world: techniques.World, gradient_path: str) -> None:
        """As Qwen-Image's pictures have: through a real decoder of videos, in place of Best of N alone."""
        model, vae, start = dit.build("qwen"), dit.video_vae(), dit.noise("qwen", 8, 8, batch=2)
        given = {"vae": vae, "latent_image": {"samples": start * 0}, "positive": dit.prompt(1),
                 "negative": dit.prompt(2), "candidates": 1, "gradient_path": gradient_path,
                 "update_rule": "spherical", "learning_rate": 1.0, "salient_weight": 0.0}  # fmt: skip
        found = search(model, world, FoveaOptimizeLatent, iterations=6, **given)
        shown = vae.decode(found[0]["samples"])[:, 0]
        assert found[1].shape == (2, 64, 64, 3)
        torch.testing.assert_close(found[1], shown, atol=2e-3, rtol=0)
        first = search(model, world, FoveaOptimizeLatent, iterations=0, **given)
        target = world.scorer.target(techniques.PROMPT)
        before, after = (
            torch.stack([picture_score(world.scorer, picture, target) for picture in each[1].movedim(-1, 1)])
            for each in (first, found)
        )
        assert (after >= before).all() and (after > before).any(), (before, after)

    @pytest.mark.parametrize("kind", [name for name, each in dit.KINDS.items() if not each.gradients])
    def test_networks_without_gradients_are_gone_past(self, world: techniques.World, kind: str) -> None:
        """What is found is a sampler's and better than what it began with. Twin: through them it is said why not."""
        model, vae, start = dit.build(kind), dit.video_vae(), dit.noise(kind, 8, 8)
        conds = {"positive": dit.prompt(1), "negative": dit.prompt(2)}
        given = {"vae": vae, "latent_image": {"samples": start * 0}, "candidates": 1, "salient_weight": 0.0,
                 "update_rule": "spherical", "learning_rate": 1.0, **conds}  # fmt: skip
        first, found = (search(model, world, FoveaOptimizeLatent, iterations=n, gradient_path="past_model", **given)
                        for n in (0, 2))  # fmt: skip
        assert number_of(found) == number_of(first) + 2
        drawn = again(model, world, found[3], latent_image=given["latent_image"], **conds)
        assert apart(drawn, found[0]["samples"]) < 1e-4
        assert float(found[5].split()[-1]) < float(first[5].split()[-1]) - 0.01, (first[5], found[5])
        with pytest.raises(NoGradient, match="in one kernel that has no gradient"):
            search(model, world, FoveaOptimizeLatent, iterations=1, gradient_path="all_steps", **given)

    def test_latents_without_pictures_are_refused(self, model: Any, world: techniques.World) -> None:
        with pytest.raises(ValueError, match="no pictures"):
            search(model, world, latent_image={"samples": torch.zeros(1, 4, 32)})


class TestFaults:
    def test_a_preview_decoder_is_used_until_the_end(self, model: Any, world: techniques.World) -> None:
        """Only what is finished is decoded with the vae."""
        counted: dict[str, list[int]] = {"vae": [], "preview": []}
        vaes = {name: demo_model.load_vae() for name in counted}
        for name, vae in vaes.items():
            decode = vae.first_stage_model.decode
            vae.first_stage_model.decode = lambda z, name=name, decode=decode: counted[name].append(1) or decode(z)
        found = search(model, world, vae=vaes["vae"], preview_vae=vaes["preview"], candidates=8, rounds=2)
        assert len(counted["preview"]) == 8 + 4 and len(counted["vae"]) == 2
        assert torch.equal(found[0]["samples"], search(model, world, candidates=8, rounds=2)[0]["samples"])

    def test_nan_of_one_candidate(self, model: Any, world: techniques.World, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is dropped and counted, and the others are what they are without it."""
        plain = search(model, world)
        real = candidate_sampler.CandidateSampler.advance

        def broken(self: Any, candidates: Any, start: int, end: int) -> tuple[Tensor, Tensor]:
            x, clean = real(self, candidates, start, end)
            for values in (x, clean):
                values[candidates.numbers[:, 0] == 1] = float("nan")
            return x, clean

        monkeypatch.setattr(candidate_sampler.CandidateSampler, "advance", broken)
        found = search(model, world)
        assert "1 candidates gave NaN or infinity and were dropped" in found[5] and "dropped" not in plain[5]
        assert torch.isfinite(found[0]["samples"]).all() and torch.isfinite(found[1]).all()

    def test_memory_for_two(self, model: Any, world: techniques.World, monkeypatch: pytest.MonkeyPatch) -> None:
        predict, sizes = comfy.samplers.CFGGuider.predict_noise, []

        def small(self: Any, x: Tensor, *rest: Any, **more: Any) -> Tensor:
            if len(x) > 2:
                raise torch.OutOfMemoryError("out of memory")
            sizes.append(len(x))
            return predict(self, x, *rest, **more)

        wanted = search(model, world, candidates=8)
        monkeypatch.setattr(comfy.samplers.CFGGuider, "predict_noise", small)
        found = search(model, world, candidates=8, batch_size=8)
        assert "memory sufficed for 2 at once, not for 8" in found[5] and set(sizes) == {2}
        assert torch.equal(found[3].noise, wanted[3].noise)

    def test_what_comfyui_says_does_not_fit_is_not_tried(
        self, model: Any, world: techniques.World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        needed = model.model.memory_required([3, 4, SIDE, SIDE])
        free = 1.5 * needed
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _device=None, both=False: (
            (free, free) if both else free))  # fmt: skip
        found = search(model, world, candidates=4, batch_size=8)
        assert "memory sufficed for 2 at once, not for 8" in found[5]
        streamed = lambda self, device: 8 * needed  # noqa: E731
        monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", streamed)
        found = search(model, world, candidates=4, batch_size=8)
        assert "memory sufficed" not in found[5], "streamed weights give theirs up"

    @pytest.mark.parametrize("seconds", [1e-6, 0.001])
    def test_less_time_than_one_picture_takes(self, model: Any, world: techniques.World, seconds: float) -> None:
        found = search(model, world, candidates=50, seconds=seconds, batch_size=4)
        assert "time is up after 1 candidates" in found[5] and number_of(found) == 1
        assert apart(again(model, world, found[3]), found[0]["samples"]) < 1e-5

    @pytest.mark.parametrize("moment", [0, 3, 7, 10])
    def test_a_cancel(self, model: Any, world: techniques.World, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Six candidates take a step each, the better three three more: after nine steps one is finished."""
        steps = [0]
        real = candidate_sampler.CandidateSampler.__post_init__

        def counting(self: Any) -> None:
            real(self)
            told = self.on_steps

            def on_steps(count: int) -> None:
                steps[0] += count
                told(count)
                if steps[0] == moment + 1:
                    comfy.model_management.interrupt_current_processing()

            self.on_steps = on_steps

        monkeypatch.setattr(candidate_sampler.CandidateSampler, "__post_init__", counting)
        try:
            if moment < 8:
                with pytest.raises(comfy.model_management.InterruptProcessingException):
                    search(model, world)
                return
            found = search(model, world)
        finally:
            comfy.model_management.interrupt_current_processing(False)
        assert "canceled: the best of what was finished" in found[5]
        assert apart(again(model, world, found[3]), found[0]["samples"]) < 1e-5, "nothing half-made"

    def test_a_canceled_search_is_not_the_answer_to_the_next_queue(
        self, model: Any, world: techniques.World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By ComfyUI's own cache keys. A finished search is kept, and so is what other nodes found."""
        class_name = "FoveaBestOfN"
        monkeypatch.setitem(comfy_nodes.NODE_CLASS_MAPPINGS, class_name, FoveaBestOfN)

        def keys() -> dict[str, Any]:
            graph = DynamicPrompt({node: {"class_type": class_name, "inputs": {"seed": 1}} for node in ("7", "8")})
            found = CacheKeySetInputSignature(graph, [], IsChangedCache("", graph, None))  # type: ignore[arg-type]
            asyncio.run(found.add_keys(["7", "8"]))
            return {node: found.get_data_key(node) for node in ("7", "8")}

        def run(cancel_after: int) -> str:
            done = [0]

            def on_evaluation(self: Any, _iteration: int, _best: Any) -> None:
                done[0] += 1
                if done[0] == cancel_after:
                    comfy.model_management.interrupt_current_processing()

            monkeypatch.setattr(noise_optimization._Progress, "on_evaluation", on_evaluation)
            node = FoveaBestOfN.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "7"}})
            try:
                return search(model, world, node, candidates=3, rounds=0, steps=2)[5]
            finally:
                comfy.model_management.interrupt_current_processing(False)

        before = keys()
        assert before["7"] != before["8"], "the same search in two nodes is not one: each may be canceled by itself"
        assert "canceled" not in run(0) and keys() == before
        assert "canceled" in run(1)
        assert keys()["7"] != before["7"] and keys()["8"] == before["8"]

    def test_nothing_of_the_model_is_changed(self, model: Any, world: techniques.World) -> None:
        before = {key: value.clone() for key, value in model.model.state_dict().items()}
        options = str(model.model_options)
        search(model, world, rounds=2, batch_size=3, sampler_name="dpmpp_2m")
        assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())
        assert str(model.model_options) == options


class TestParticles:
    def test_at_strength_zero_each_is_a_samplers_own(self, model: Any, world: techniques.World) -> None:
        """Plain best of n, whose winner a sampler draws again. Twin: copies are not, and it is said."""
        given = {"sampler_name": "euler_ancestral", "steps": 6, "rounds": 3}
        still = search(model, world, method="particles", particle_strength=0.0, **given)
        drawn = again(model, world, still[3], "euler_ancestral", steps=6)
        assert apart(drawn, still[0]["samples"]) < 1e-5 and "no particles were drawn anew" in still[5]
        plain = search(model, world, **{**given, "rounds": 0})
        assert apart(still[0]["samples"], plain[0]["samples"]) < 1e-5
        moved = search(model, world, method="particles", particle_strength=20.0, batch_size=3, **given)
        assert "drawn anew at step" in moved[5] and torch.isfinite(moved[0]["samples"]).all()
        assert apart(again(model, world, moved[3], "euler_ancestral", steps=6), moved[0]["samples"]) > 1e-2

    @pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
    def test_samplers_that_cannot_are_refused(self, model: Any, world: techniques.World, sampler: str) -> None:
        with pytest.raises(ValueError, match="such as euler_ancestral"):
            search(model, world, method="particles", sampler_name=sampler, rounds=2)

    def test_particles_without_a_look_are_refused(self, model: Any, world: techniques.World) -> None:
        with pytest.raises(ValueError, match="set rounds to 1"):
            search(model, world, method="particles", sampler_name="euler_ancestral", rounds=0)


class TestRefinement:
    def test_time_is_shared_and_told(self, model: Any, world: techniques.World) -> None:
        """No candidate is left unfinished, and what is found is a sampler's picture of its noise."""
        found = search(model, world, FoveaOptimizeLatent, candidates=500, iterations=500, seconds=12.0, patience=1)
        told = found[5].splitlines()
        assert any(line.startswith("candidates: ") for line in told)
        assert any(line.startswith("iterations: ") for line in told), found[5]
        assert apart(again(model, world, found[3]), found[0]["samples"]) < 1e-4

    @pytest.mark.parametrize("mode", ["checkpoint", "invertible"])
    def test_a_share_of_zero_draws_one_at_first(self, model: Any, world: techniques.World, mode: str) -> None:
        path = {"gradient_path": "all_steps" if mode == "invertible" else "past_model", "mode": mode}
        found = search(model, world, FoveaOptimizeLatent, candidates=3, iterations=1, seconds=600.0,
                       candidate_share=0.0, steps=2, **path)  # fmt: skip
        told = [line.split(" in ")[0] for line in found[5].splitlines() if " in " in line]
        assert "candidates: 1" in told and "iterations: 2" in told, found[5]

    def test_a_scorer_without_gradients_is_searched_only(self, model: Any, world: techniques.World) -> None:
        class Blind(type(world.scorer)):  # type: ignore[misc]
            differentiable = False

            def losses(self, squares: Tensor, target: Any) -> Tensor:
                return super().losses(squares.detach(), target).detach()

        scorer = Blind(**{name: getattr(world.scorer, name) for name in world.scorer.__dataclass_fields__})
        found = search(model, world, FoveaOptimizeLatent, scorer=scorer, iterations=3, candidates=4)
        assert "gives no gradient: candidates only" in found[5] and "4 trials" in found[5]
        assert torch.equal(found[0]["samples"], search(model, world, candidates=4)[0]["samples"])


def test_it_finds_better_than_the_first(model: Any, world: techniques.World) -> None:
    """And the more, the better, in the mean over seeds."""
    losses = {n: sum(float(search(model, world, candidates=n, seed=seed, rounds=2)[5].split()[5]) for seed in range(4))
              for n in (1, 8)}  # fmt: skip
    assert losses[8] < losses[1] - 0.02
