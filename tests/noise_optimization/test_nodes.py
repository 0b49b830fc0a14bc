"""The latent nodes on the demo model: what they find is what ComfyUI's own samplers draw from it."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from comfy_extras.nodes_easycache import EasyCacheNode
from torch import Tensor

from fovea.guidance.gradients.autograd import NoGradient, fully_loaded
from fovea.guidance.noise_optimization import clip_guidance, noise_sampler
from fovea.guidance.noise_optimization.config import CandidateSearch, evaluations
from fovea.guidance.noise_optimization.losses import picture_score
from fovea.guidance.noise_optimization.presets import PRESETS
from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.masks import Region, Regions
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.clip_guidance import FoveaCLIPGuidance
from fovea.nodes.experts import FoveaExpert, FoveaExpertSwitch
from fovea.nodes.noise_optimization import FoveaBestOfN, FoveaOptimizeLatent
from fovea.nodes.sag import FoveaSelfAttentionGuidance
from fovea.nodes.saliency import FoveaSaliencyMap
from fovea.nodes.scorers import SHAPESWORLD, FoveaLoadScorer, FoveaScoreImages
from fovea.nodes.ui import charts
from tools.comfy.node_values import arguments

TEXT = "a plain red star and a striped blue circle on a white background"
STEPS, CFG = 4, 4.0
SIDE = 16  # of latents: a third of the time of the 32 that the model was trained on
OPTIONS = {
    "iterations": 2, "learning_rate": 30.0, "update_rule": "doodl", "salient_weight": 0.5, "salient_views": "crops",
    "candidates": 1, "gradient_path": "all_steps",
}  # fmt: skip
PAST = {"gradient_path": "past_model", "update_rule": "spherical", "learning_rate": 1.0}


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """Everything a latent node takes, made as the server makes it."""
    with torch.inference_mode():
        model, clip, vae = demo_model.load_model(), demo_model.load_clip(), demo_model.load_vae()
        (scorer,) = FoveaLoadScorer.execute(SHAPESWORLD, "auto").result
        return {
            "model": model, "vae": vae, "positive": prompt_encoding.encode(clip, TEXT),
            "negative": prompt_encoding.encode(clip, ""),
            "latent_image": {"samples": torch.zeros(2, 4, SIDE, SIDE)}, "scorer": scorer, "prompt": TEXT, "seed": 5,
            "steps": STEPS, "scheduler": "normal", "cfg": CFG,
        }  # fmt: skip


def optimized(given: dict[str, Any], **changes: Any) -> tuple:
    with torch.inference_mode():
        return techniques.outputs(FoveaOptimizeLatent, **{**given, **OPTIONS, **changes})


def sampled(given: dict[str, Any], noise: Tensor, latent: Tensor, **extra: Any) -> Tensor:
    with torch.inference_mode():
        return comfy.sample.sample(
            given["model"], noise, STEPS, CFG, "euler", "normal", given["positive"], given["negative"], latent,
            disable_pbar=True, seed=5, **extra,
        )  # fmt: skip


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((a - b).norm() < tolerance * b.norm())


def test_without_iterations_it_is_the_euler_sampler(given: dict[str, Any]) -> None:
    latent = given["latent_image"]["samples"]
    wanted = sampled(given, comfy.sample.prepare_noise(latent, 5), latent)
    for off in ({"iterations": 0}, {"learning_rate": 0.0}):
        samples, image, _, _, chart, report = optimized(given, **off)
        assert close(samples["samples"], wanted) and "1 trials" in report
    with torch.inference_mode():
        assert close(image, given["vae"].decode(wanted))
    assert chart.ndim == 4 and chart.shape[-1] == 3


@pytest.mark.parametrize(
    "changes",
    [{}, {"mode": "invertible"}, {"update_rule": "reno", "learning_rate": 1.0},
     {"salient_views": "cutouts", "cutouts": 3}, {"mask": torch.ones(1, 256, 256)}, {"salient_weight": 0.0}, PAST,
     {**PAST, "gradient_path": "last_steps", "backprop_steps": 2}],
    ids=str,
)  # fmt: skip
def test_losses_fall_and_the_best_is_what_samplers_draw(given: dict[str, Any], changes: dict[str, Any]) -> None:
    samples, image, start, noise, _, report = optimized(given, **changes)
    losses = [[float(word) for word in line.split() if "." in word] for line in report.splitlines()[:2]]
    assert all(best <= first for first, best in losses) and any(best < first - 1e-3 for first, best in losses)
    assert image.shape == (2, 8 * SIDE, 8 * SIDE, 3) and "3 trials" in report
    if changes.get("mode") != "invertible":  # EDICT's own steps are not Euler's
        zeros = torch.zeros_like(start["samples"])
        assert close(sampled(given, zeros, start["samples"], disable_noise=True), samples["samples"], 1e-3)
        guider = comfy.samplers.CFGGuider(given["model"])
        guider.set_conds(given["positive"], given["negative"])
        guider.set_cfg(CFG)
        sigmas = comfy.samplers.calculate_sigmas(given["model"].get_model_object("model_sampling"), "normal", STEPS)
        with torch.inference_mode():
            again = SamplerCustomAdvanced.execute(
                noise, guider, comfy.samplers.sampler_object("euler"), sigmas, given["latent_image"]
            ).result[0]
        assert close(again["samples"], samples["samples"], 1e-3)


PUBLISHED = {"update_rule": "doodl", "gradient_path": "all_steps", "salient_weight": 0.0}
PAPERS: dict[str, dict[str, Any]] = {
    "DOODL": PUBLISHED, "SGOOL": {**PUBLISHED, "salient_weight": 0.5, "salient_views": "crops"},
    "ReNO": {**PUBLISHED, "update_rule": "reno"},
    "default": {"update_rule": "spherical", "gradient_path": "past_model", "salient_weight": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("preset", PAPERS)
def test_presets_are_settings(given: dict[str, Any], preset: str) -> None:
    """What a preset leaves out is as in the papers; what it shows begins with their values."""
    few = {"iterations": 2, "candidates": 1}
    with torch.inference_mode():
        short = FoveaOptimizeLatent.execute(**given, preset={"preset": preset, **few}).result
        custom = FoveaOptimizeLatent.execute(**given, preset={"preset": "custom", **few, **PAPERS[preset]}).result
    assert torch.equal(short[0]["samples"], custom[0]["samples"])
    shown = arguments(FoveaOptimizeLatent, preset=preset)["preset"]
    usual = {"default": (20, 8)}.get(preset, (50, 1))
    assert (shown["iterations"], shown["candidates"]) == usual
    assert all(shown[name] == value for name, value in PAPERS[preset].items() if name in shown)


def test_the_help_page_tells_how_many_pictures_are_drawn() -> None:
    usual, page = PRESETS["default"], Path(__file__).resolve().parents[2] / "web/docs/FoveaOptimizeLatent.md"
    drawn = evaluations(usual.mode, 1, usual.iterations, usual.candidates, 0, CandidateSearch())
    assert f"draw {drawn} pictures" in page.read_text(encoding="utf-8")


def test_an_unknown_preset_is_answered_with_the_list(given: dict[str, Any]) -> None:
    for wrong in ({"preset": "sgool"}, {}, None):
        with pytest.raises(ValueError, match="Optimize Latent: preset must be one of: default, SGOOL"):
            FoveaOptimizeLatent.execute(**given, preset=wrong)


def test_the_same_seed_finds_the_same_and_plain_runs_stay_the_same(given: dict[str, Any]) -> None:
    latent = given["latent_image"]["samples"]
    noise = comfy.sample.prepare_noise(latent, 1)
    before = sampled(given, noise, latent)
    first, second = optimized(given), optimized(given)
    assert torch.equal(first[0]["samples"], second[0]["samples"])
    assert torch.equal(sampled(given, noise, latent), before)
    assert not any(p.requires_grad for p in given["model"].model.parameters())


def test_a_picture_does_not_depend_on_its_neighbors(given: dict[str, Any]) -> None:
    both = optimized(given)[0]["samples"]
    alone = optimized(given, latent_image={"samples": torch.zeros(1, 4, SIDE, SIDE)})[0]["samples"]
    assert close(both[:1], alone, 1e-2)


def test_inpainting(given: dict[str, Any]) -> None:
    """What the mask protects stays; the noise found gives the same picture again; EDICT is refused."""
    picture = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., :128] = 1
    latent = {"samples": picture, "noise_mask": mask}
    samples, _, _, noise, _, report = optimized(given, latent_image=latent)
    assert close(samples["samples"][..., 16:], picture[..., 16:]) and "3 trials" in report
    with torch.inference_mode():
        again = sampled(given, noise.generate_noise(latent), picture, noise_mask=mask)
    assert close(again, samples["samples"], 1e-3)
    with pytest.raises(NoGradient, match="checkpoint"):
        optimized(given, latent_image=latent, mode="invertible")


@pytest.mark.parametrize("settings", [{}, PAST], ids=["all_steps", "past_model"])
def test_inpainting_in_gray(given: dict[str, Any], settings: dict[str, Any]) -> None:
    """The noise found gives the same picture again, whatever the mask; it is as strong as noise is."""
    picture = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    mask = torch.full((1, 1, 256, 256), 0.5)
    latent = {"samples": picture, "noise_mask": mask}
    samples, _, _, noise, *_ = optimized(given, latent_image=latent, candidates=3, **settings)
    drawn = noise.generate_noise(latent)
    assert float(drawn.std()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(drawn, comfy.sample.prepare_noise(picture, 5)), "twin: something was found"
    assert close(sampled(given, drawn, picture, noise_mask=mask), samples["samples"], 1e-4)


def test_candidates_come_first(given: dict[str, Any]) -> None:
    """The best of the candidates is what Best of N finds with the same seed, and iterations only add to it."""
    with torch.inference_mode():
        *_, best_report = techniques.outputs(FoveaBestOfN, **given, candidates=3)
    report = optimized(given, candidates=3, iterations=0, salient_weight=0.0)[5]
    assert report.splitlines()[:2] == best_report.splitlines()[:2] and "4 trials" in report
    bests = [float(line.split()[-3]) for line in best_report.splitlines()[:2]]
    more = optimized(
        given,
        candidates=3,
        iterations=2,
        salient_weight=0.0,
        update_rule="spherical",
        learning_rate=1.0,
        gradient_path="past_model",
    )[5]
    assert all(float(line.split()[-3]) <= best for line, best in zip(more.splitlines(), bests)) and "6 trials" in more


def guided_every_second_step(given: dict[str, Any]) -> Any:
    return FoveaSelfAttentionGuidance.execute(
        given["model"], scale=0.5, blur_sigma=2.0, threshold=1.0, mask_mode="threshold", guided_prompt="auto",
        blocks="auto", start_percent=0.0, end_percent=1.0, every_n_steps=2, rescale=0.0, blur_kernel="auto",
    ).result[0]  # fmt: skip


def test_past_the_model_any_model_will_do(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is refused otherwise, with a state that lives through a run: every trial begins without it. An
    inpainting mask. The sampled model is the one given, only the decoder has to stay where it is."""
    settings = {"gradient_path": "past_model", "update_rule": "spherical", "learning_rate": 1.0, "steps": 3}
    guided = guided_every_second_step(given)
    samples, _, _, noise, _, report = optimized(given, model=guided, **settings)
    assert "3 trials" in report
    again = noise.generate_noise(given["latent_image"])
    with torch.inference_mode():
        plain = comfy.sample.sample(
            guided, again, 3, CFG, "euler", "normal", given["positive"], given["negative"],
            given["latent_image"]["samples"], disable_pbar=True, seed=5,
        )  # fmt: skip
    assert close(samples["samples"], plain, 1e-3)
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., :128] = 1
    picture = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    kept = optimized(given, latent_image={"samples": picture, "noise_mask": mask}, **settings)[0]["samples"]
    assert close(kept[..., 16:], picture[..., 16:])
    stayed: list[Any] = []
    monkeypatch.setattr(noise_sampler, "fully_loaded", lambda patcher: stayed.append(patcher) or fully_loaded(patcher))
    optimized(given, **settings)
    assert stayed == [given["vae"].patcher]
    optimized(given, iterations=1)
    assert stayed[1:] == [given["vae"].patcher, given["model"]]
    with pytest.raises(NoGradient, match="all_steps"):
        optimized(given, mode="invertible", gradient_path="past_model")
    assert not comfy.model_management.in_training


def test_what_remembers_earlier_steps_is_refused_everywhere(given: dict[str, Any]) -> None:
    cached = EasyCacheNode.execute(given["model"], 0.2, 0.15, 0.95, False).result[0]
    for changes in ({}, {"gradient_path": "past_model"}):
        with pytest.raises(NoGradient, match="easycache"):
            optimized(given, model=cached, **changes)
    with pytest.raises(NoGradient, match="easycache"), torch.inference_mode():
        techniques.outputs(FoveaBestOfN, **{**given, "model": cached}, candidates=2)


def test_clip_guidance_has_no_gradient(given: dict[str, Any]) -> None:
    guided = TestClipGuidance.guided(given, 20.0)
    with pytest.raises(NoGradient, match="CLIP Guidance"):
        optimized(given, model=guided)
    assert (
        "3 trials"
        in optimized(given, model=guided, gradient_path="past_model", update_rule="spherical", learning_rate=1.0)[5]
    )


def test_time_is_up_while_drawing(given: dict[str, Any]) -> None:
    report = optimized(given, candidates=50, iterations=5, seconds=0.01)[5]
    assert "time is up after 1 candidates" in report and "1 trials" in report


def test_nothing_salient_is_said(given: dict[str, Any]) -> None:
    mask = torch.zeros(2, 256, 256)
    mask[1, 50:90, 50:90] = 1
    report = optimized(given, mask=mask)[5]
    assert "picture 1: nothing salient in 3 trials" in report and "picture 2: nothing" not in report


def test_videos_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(NoGradient, match=r"through videos.*Best of N"):
        optimized(given, latent_image={"samples": torch.zeros(1, 4, 2, SIDE, SIDE)})


def test_cancel(given: dict[str, Any]) -> None:
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        optimized(given)
    assert not comfy.model_management.in_training
    optimized(given, iterations=0)


def test_what_loses_gradient_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(NoGradient, match="every_n_steps"):
        optimized(given, model=guided_every_second_step(given))


def test_best_of_n(given: dict[str, Any]) -> None:
    with torch.inference_mode():
        one, *_ = techniques.outputs(FoveaBestOfN, **given, candidates=1)
        _, image, *_, report = techniques.outputs(FoveaBestOfN, **given, candidates=4)
        order = FoveaScoreImages.execute(image, given["scorer"], TEXT).result[2]
    latent = given["latent_image"]["samples"]
    assert close(one["samples"], sampled(given, comfy.sample.prepare_noise(latent, 5), latent))
    firsts, bests = zip(*[[float(word) for word in line.split() if "." in word] for line in report.splitlines()[:2]])
    assert "4 trials" in report and sum(bests) < sum(firsts) and image.shape == (2, 8 * SIDE, 8 * SIDE, 3)
    best = max(float(line.split()[0]) for line in order.splitlines())
    assert best == pytest.approx(100 * torch.cos(torch.tensor(2 * min(bests)).sqrt()).item(), abs=0.1)


def continuous(kind: type, spread: float) -> Any:
    """A model_sampling whose latents have this deviation (sigma_data), over ShapesWorld's noise levels."""
    sampling = type("Continuous", (comfy.model_sampling.ModelSamplingContinuousEDM, kind), {})()
    sampling.set_parameters(0.03, 14.6, spread)
    return sampling


class TestClipGuidance:
    @staticmethod
    def guided(given: dict[str, Any], scale: float, **changes: Any) -> Any:
        window = {"cutouts": 0, "start_percent": 0.0, "end_percent": 1.0, **changes}
        with torch.inference_mode():
            return FoveaCLIPGuidance.execute(
                given["model"], given["vae"], given["scorer"], TEXT, scale=scale, **window
            ).result[0]  # fmt: skip

    @staticmethod
    def score(given: dict[str, Any], samples: Tensor) -> float:
        with torch.inference_mode():
            report = FoveaScoreImages.execute(given["vae"].decode(samples), given["scorer"], TEXT).result[2]
        return sum(float(line.split()[0]) for line in report.splitlines()) / len(report.splitlines())

    def test_neutral_settings_are_the_model_itself(self, given: dict[str, Any]) -> None:
        assert self.guided(given, 0.0) is given["model"]
        assert self.guided(given, 50.0, start_percent=0.5, end_percent=0.5) is given["model"]

    def test_pictures_fit_better_with_any_sampler(self, given: dict[str, Any]) -> None:
        """Without a prompt, so that nothing else tells what to draw."""
        latent = given["latent_image"]["samples"]
        noise = comfy.sample.prepare_noise(latent, 5)
        guided = self.guided(given, 20.0)
        for sampler in ("euler", "dpmpp_2m", "heun"):
            runs = []
            for model in (given["model"], guided):
                with torch.inference_mode():
                    runs.append(comfy.sample.sample(
                        model, noise, 8, 1.0, sampler, "normal", given["negative"], given["negative"], latent,
                        disable_pbar=True, seed=5,
                    ))  # fmt: skip
            assert self.score(given, runs[1]) > self.score(given, runs[0]) + 3, sampler
        assert not any(p.requires_grad for p in given["model"].model.parameters())

    @pytest.mark.parametrize("cutouts", [0, 3])
    def test_a_picture_does_not_depend_on_its_neighbors(self, given: dict[str, Any], cutouts: int) -> None:
        """Cutouts are drawn by the place in the batch: those of a single picture are the first one's."""
        guided, noise = {**given, "model": self.guided(given, 20.0, cutouts=cutouts)}, tiny.noise(32, 32, batch=2)
        both = sampled(guided, noise, torch.zeros_like(noise))
        for at in range(1 if cutouts else 2):
            start = noise[at : at + 1]
            alone = sampled(guided, start, torch.zeros_like(start))
            assert close(both[at : at + 1], alone)
            assert not close(sampled(given, start, torch.zeros_like(start)), alone, 0.1), "twin: it is guided"

    def test_beside_a_controlnet(self, given: dict[str, Any]) -> None:
        """Which overwrites in the network what the gradient needs."""
        _, control = tiny.controlnet()
        extra = {"control": control.set_cond_hint(torch.rand(1, 3, 128, 128), 1.0), "control_apply_to_uncond": False}
        start, prompts = tiny.noise(16, 16), {"positive": tiny.prompt(1, **extra), "negative": tiny.prompt(2, **extra)}
        plain = tiny.unet("sd15")
        runs = [tiny.sample(model, start, 3.0, 2, **prompts)
                for model in (plain, self.guided({**given, "model": plain}, 20.0))]  # fmt: skip
        assert torch.isfinite(runs[1]).all() and (runs[0] - runs[1]).abs().max() > 1e-3

    def test_what_it_cannot_look_at_is_refused(self, given: dict[str, Any]) -> None:
        wan = self.guided({**given, "model": dit.build("wan")}, 20.0)
        with pytest.raises(NoGradient, match="through videos"):
            dit.sample(wan, dit.noise("wan", frames=2), steps=1)

    def test_pictures_with_an_axis_for_frames(self, given: dict[str, Any]) -> None:
        """Are pulled toward the prompt as others are, through a decoder of videos."""
        model, vae, start = dit.build("qwen"), dit.video_vae(), dit.noise("qwen", 8, 8)
        target, scores = given["scorer"].target(given["prompt"]), []
        for each in (model, self.guided({**given, "model": model, "vae": vae}, 100.0)):
            with torch.inference_mode():
                picture = vae.decode(dit.sample(each, start, steps=4))[0, 0].movedim(-1, 0)
                scores.append(float(picture_score(given["scorer"], picture, target)))
        assert scores[1] > scores[0] + 1, scores

    def test_only_what_it_takes_gradients_of_is_refused(self, given: dict[str, Any]) -> None:
        """SAG acts after the model's predictions, of which the push is taken."""
        self.guided({**given, "model": guided_every_second_step(given)}, 20.0)

    @pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("kind", [comfy.model_sampling.EPS, comfy.model_sampling.EDM])
    def test_alpha_is_that_of_latents_of_unit_deviation(self, kind: type, spread: float) -> None:
        """Variance preserving, so that what is decoded near the end is the picture."""
        for sigma in (1e-3, 0.3, 1.0, 14.0):
            alpha = 1 / (1 + (sigma / spread) ** 2)
            wanted = (sigma**2 + spread**2) ** -0.5, alpha**0.5, (1 - alpha) ** 0.5
            assert clip_guidance.roots(continuous(kind, spread), sigma) == pytest.approx(wanted, rel=1e-4)
        _, signal, noise = clip_guidance.roots(continuous(kind, spread), 0.002)
        assert noise + (1 - noise) * signal == pytest.approx(1, abs=1e-4)

    def test_a_flows_latents_are_the_picture_near_the_end(self) -> None:
        assert clip_guidance.roots(dit.build("flux").get_model_object("model_sampling"), 0.3) == pytest.approx(
            (1, 1, 0.3)
        )

    @pytest.mark.parametrize(("spread", "start"), [(1.0, None), (0.5, 0.5)])
    def test_the_push_is_the_gradient_of_the_loss(
        self, given: dict[str, Any], spread: float, start: float | None
    ) -> None:
        """At one step, against finite differences of the loss that the formula names."""
        seen: dict[str, Tensor] = {}
        if start is not None:
            patched = given["model"].clone()
            patched.add_object_patch("model_sampling", continuous(comfy.model_sampling.EPS, spread))
            given = {**given, "model": patched}

        def keep(args: dict[str, Any]) -> Tensor:
            seen.update(x=args["input"].clone(), sigma=args["sigma"].clone(), denoised=args["denoised"].clone())
            return args["denoised"]

        latent = torch.zeros(1, 4, SIDE, SIDE)
        one = {**given, "latent_image": {"samples": latent}}
        for scale in (0.0, 100.0):
            model = self.guided(one, scale).clone()
            model.set_model_sampler_post_cfg_function(keep)
            with torch.inference_mode():
                comfy.sample.sample(
                    model, comfy.sample.prepare_noise(latent, 5), 1, CFG, "euler", "normal", given["positive"],
                    given["negative"], latent, disable_pbar=True, seed=5,
                    sigmas=None if start is None else torch.tensor([start, 0.0]),
                )  # fmt: skip
            seen[f"at {scale:g}"] = seen["denoised"]
        push = seen["at 0"] - seen["at 100"]
        sigma = float(seen["sigma"])
        root = (spread**2 + sigma**2) ** -0.5

        def loss(x: Tensor) -> float:
            with torch.inference_mode():
                guider = comfy.samplers.CFGGuider(given["model"])
                guider.set_conds(given["positive"], given["positive"])
                guider.set_cfg(1.0)

                class Once(comfy.samplers.Sampler):
                    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict, *_: Any, **__: Any) -> Tensor:
                        return model_wrap(x, sigmas[:1], **extra_args)

                levels = torch.tensor([sigma, 0.0])
                x0 = guider.sample(torch.zeros_like(x), latent, Once(), levels, disable_pbar=True, seed=5)
                x0 = given["model"].model.process_latent_in(x0)
                noisy = sigma * root
                mixed = given["model"].model.process_latent_out(noisy * x0 + (1 - noisy) * root * spread * x)
                picture = given["vae"].decode(mixed).movedim(-1, 1)
                small = torch.nn.functional.interpolate(picture, size=(128, 128), mode="bilinear", antialias=True)
                vectors = given["scorer"].image(small), given["scorer"].text([TEXT])
                return float(torch.arccos(torch.nn.functional.cosine_similarity(*vectors).double()) ** 2 / 2)

        gradient = push / (100.0 * sigma**2)  # at the network's input, whose x is root times ours
        step = 5e-4 * sigma * push / push.norm() * push.numel() ** 0.5
        slope = (loss(seen["x"] + step) - loss(seen["x"] - step)) / 2
        predicted = float((gradient * step).sum())
        assert slope == pytest.approx(predicted, rel=0.1) and predicted > 0


def test_scores_are_sorted(given: dict[str, Any]) -> None:
    pictures = torch.rand(5, 64, 100, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ordered, chart, report = FoveaScoreImages.execute(pictures, given["scorer"], TEXT).result
    values = [float(line.split()[0]) for line in report.splitlines()]
    places = [int(line.split()[-1]) - 1 for line in report.splitlines()]
    assert values == sorted(values, reverse=True) and sorted(places) == list(range(5))
    assert torch.equal(ordered, pictures[places]) and chart.shape[0] == 1


def test_charts_draw_anything() -> None:
    for series in ([], [[]], [[1.0]], [[1.0, float("nan"), 0.5], [2.0, 2.0]], [[0.0] * 200]):
        assert torch.isfinite(charts.curves(series, "t", "x")).all()
    for values in ([], [1.0], [float("nan")], [-1.0, 2.0], [3.0] * 60):
        drawn = charts.bars(values, [str(i) for i in range(len(values))], "t")
        assert drawn.shape == (charts.HEIGHT, charts.WIDTH, 3)


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("decide", ["sigma", "monotonic"])
def test_every_trial_of_a_search_starts_with_the_first_model(given: dict[str, Any], decide: str, rounds: int) -> None:
    low = demo_model.load_model()
    experts = FoveaExpert.execute(low, "timestep", 0.66, -1.0).result[0]
    model = FoveaExpertSwitch.execute(given["model"], experts, 0.0, "auto", decide).result[0]
    settings = {**given, "model": model, "latent_image": {"samples": torch.zeros(1, 4, SIDE, SIDE)}}
    with torch.inference_mode(), tiny.watching(low, at="") as calls:
        samples, _, _, noise, *_ = techniques.outputs(FoveaBestOfN, **settings, candidates=3, rounds=rounds)
    assert calls and len(calls) % (3 if rounds == 0 else 2) == 0 and len(calls) < 3 * STEPS
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(given["positive"], given["negative"])
    guider.set_cfg(CFG)
    sigmas = comfy.samplers.calculate_sigmas(given["model"].get_model_object("model_sampling"), "normal", STEPS)
    with torch.inference_mode():
        again = guider.sample(noise.generate_noise(settings["latent_image"]), torch.zeros(1, 4, SIDE, SIDE),
                              comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)  # fmt: skip
    torch.testing.assert_close(again, samples["samples"], rtol=1e-4, atol=1e-4)


def test_a_step_cache_on_an_expert_is_refused_by_name(given: dict[str, Any]) -> None:
    cached = EasyCacheNode.execute(demo_model.load_model(), 0.2, 0.15, 0.95, False).result[0]
    experts = FoveaExpert.execute(cached, "timestep", 0.66, -1.0).result[0]
    model = FoveaExpertSwitch.execute(given["model"], experts, 0.0, "auto", "sigma").result[0]
    with pytest.raises(NoGradient, match="Expert 1 has easycache"):
        techniques.outputs(FoveaBestOfN, **{**given, "model": model}, candidates=2)


def test_pictures_that_are_not_finite_come_last(given: dict[str, Any]) -> None:
    pictures = torch.rand(4, 96, 96, 3, generator=torch.Generator().manual_seed(0))
    ranked = FoveaScoreImages.execute(pictures, given["scorer"], TEXT).result[2].splitlines()
    order = [int(line.split("picture ")[1].split()[0]) - 1 for line in ranked]
    broken = pictures.clone()
    broken[order[1]] = float("nan")
    told = FoveaScoreImages.execute(broken, given["scorer"], TEXT).result[2].splitlines()
    left = [int(line.split("picture ")[1].split()[0]) - 1 for line in told]
    assert left == [order[0], order[2], order[3], order[1]] and "--fp32-vae" in told[-1]
    assert "--fp32-vae" not in "".join(told[:-1])


def test_a_pictures_score_is_the_mean_of_its_squares(given: dict[str, Any]) -> None:
    """100 x the mean cosine, not the cosine of a mean angle."""
    wide = torch.rand(1, 128, 256, 3, generator=torch.Generator().manual_seed(0))
    wide[:, :, 128:] = 0
    alone = [float(FoveaScoreImages.execute(part, given["scorer"], TEXT).result[2].split()[0])
             for part in (wide[:, :, :128], wide[:, :, 128:])]  # fmt: skip
    both = float(FoveaScoreImages.execute(wide, given["scorer"], TEXT).result[2].split()[0])
    assert abs(alone[0] - alone[1]) > 1 and both == pytest.approx(sum(alone) / 2, abs=0.02)


def test_gray_pictures_of_one_channel(given: dict[str, Any]) -> None:
    gray = torch.rand(2, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    same = FoveaScoreImages.execute(gray.expand(-1, -1, -1, 3), given["scorer"], TEXT).result[2]
    assert FoveaScoreImages.execute(gray, given["scorer"], TEXT).result[2] == same
    assert FoveaSaliencyMap.execute(gray, 0.65, True).result[0].shape == (2, 64, 64)


def test_a_picture_of_nan_has_an_empty_map() -> None:
    pictures = torch.rand(2, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    fine = FoveaSaliencyMap.execute(pictures, 0.65, True).result[0]
    pictures[0] = float("nan")
    maps, seen = FoveaSaliencyMap.execute(pictures, 0.65, True).result
    assert torch.equal(maps[0], torch.zeros(64, 96)) and torch.equal(maps[1], fine[1]) and torch.isfinite(seen).all()


def test_a_decoder_that_gives_nan_is_named_with_the_cure(given: dict[str, Any]) -> None:
    broken = copy.copy(given["vae"])
    broken.process_output = lambda x: x * float("nan")
    for run in (lambda: optimized({**given, "vae": broken}, **PAST), lambda: techniques.outputs(
            FoveaBestOfN, **{**given, "vae": broken}, candidates=2)):  # fmt: skip
        with pytest.raises(ValueError, match="--fp32-vae"):
            run()


def test_best_of_n_decodes_picture_by_picture(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken back through its decoder, so one picture's memory is enough; else it goes on in tiles."""
    network = given["vae"].first_stage_model
    decode, sizes = network.decode, []

    def small(z: Tensor, *rest: Any, **more: Any) -> Tensor:
        sizes.append(tuple(z.shape))
        if len(sizes) == fails_at:
            raise torch.OutOfMemoryError("out of memory")
        return decode(z, *rest, **more)

    monkeypatch.setattr(network, "decode", small)
    found = []
    for fails_at in (0, 1):
        sizes.clear()
        found.append(techniques.outputs(FoveaBestOfN, **given, candidates=1)[1])
        assert {size[0] for size in sizes} == {1} and len(sizes) == (2 if fails_at == 0 else 5), "three ways of tiles"
    torch.testing.assert_close(*found, rtol=0, atol=0.02)


class Activation:
    """What a decoder holds while it works."""


def test_tiles_begin_when_what_did_not_fit_is_gone(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = given["vae"].first_stage_model
    decode, held = network.decode, list[weakref.ref]()

    def small(z: Tensor, *rest: Any, **more: Any) -> Tensor:
        if not held:
            large = Activation()
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("out of memory")
        assert held[0]() is None
        return decode(z, *rest, **more)

    monkeypatch.setattr(network, "decode", small)
    techniques.outputs(FoveaBestOfN, **given, candidates=1)
    assert held


def test_memory_that_ends_is_told_with_a_cure_that_fits(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(comfy.samplers.CFGGuider, "predict_noise", full)
    with pytest.raises(RuntimeError, match=r"Use a smaller picture, or a batch of one\.$") as plain:
        techniques.outputs(FoveaBestOfN, **given, candidates=1)
    with pytest.raises(RuntimeError, match=r"or preset default \(gradient_path past_model\)"):
        optimized(given)
    with pytest.raises(RuntimeError, match=r"or a tiny autoencoder \(TAESD\) as vae\.$"):
        optimized(given, **PAST)
    assert "radient" not in str(plain.value)


def test_what_nothing_is_done_with_is_told(given: dict[str, Any]) -> None:
    """Maps of what matters where no salient part counts, and regions that ask for nothing."""
    maps = {"mask": torch.ones(1, 8, 8), "saliency_model": torch.nn.Identity()}
    none = {"iterations": 0, "candidates": 1}
    report = optimized(given, **maps, **none, salient_weight=0.0)[5]
    assert all(f"{name} does nothing: salient_weight is 0" in report for name in maps)
    assert "does nothing" not in optimized(given, mask=maps["mask"], **none)[5]
    left, right = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    left[..., :4], right[..., 4:] = 1, 1
    off, on = Region(left, "a red star", strength=0.0), Region(right, "a blue circle")
    for node in (lambda **more: optimized(given, **none, **more)[5],
                 lambda **more: techniques.outputs(FoveaBestOfN, **given, candidates=1, **more)[5]):  # fmt: skip
        report = node(regions=Regions((off, on)))
        assert "'a red star' has strength 0: it is left out" in report and "region 1 (a blue circle)" in report
        assert report.count("picture 1, region") == 1
        assert "No region has a prompt: regions are not scored" in node(regions=Regions((Region(left, ""),)))


def test_a_long_prompt_is_said_to_be_cut(given: dict[str, Any]) -> None:
    picture = torch.rand(1, 64, 64, 3)
    assert "does not read the last" in FoveaScoreImages.execute(picture, given["scorer"], f"{TEXT}, " * 20).result[2]
    assert "does not read" not in FoveaScoreImages.execute(picture, given["scorer"], TEXT).result[2]


def test_an_empty_prompt_is_said(given: dict[str, Any]) -> None:
    assert "prompt is empty" in optimized({**given, "prompt": " "}, iterations=0)[5]
    assert "prompt is empty" not in optimized(given, iterations=0)[5]
