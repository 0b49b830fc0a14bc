"""Region Start inside ComfyUI: a run with it is a run from noise that was shifted by hand; others stay as they are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import comfy.samplers
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from torch import Tensor

from fovea.guidance.gradients.errors import NoGradient
from fovea.guidance.region_start.painting import UNIT
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.starting_noise import STARTS
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.region_start import FoveaRegionStart
from fovea.nodes.regions import FoveaDenseDiffusion

RED, BLUE, WHITE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
NOTHING = "left as it is"


def boxes(side: int = 32) -> tuple[Tensor, Tensor]:
    left, right = torch.zeros(1, side, side), torch.zeros(1, side, side)
    left[:, : side // 2, : side // 2] = 1
    right[:, side // 4 :, 3 * side // 4 :] = 1
    return left, right


def regions(**changes: Any) -> Regions:
    left, right = boxes()
    return Regions((Region(left, "a plain red star", **changes), Region(right, "a blue circle")))


def started(model: Any, wanted: Regions | None = None, **changes: Any) -> Any:
    return techniques.outputs(
        FoveaRegionStart, model=model, regions=regions() if wanted is None else wanted, **changes
    )[0]


def by_hand(model: Any, noise: Tensor, background: tuple | None, colors: tuple = (RED, BLUE)) -> Tensor:
    """The shift pixel by pixel: the smallest latent that ComfyUI's preview shows in the color, times UNIT."""
    latent_format = model.model.latent_format
    factors = torch.tensor(latent_format.latent_rgb_factors).double()
    bias = torch.tensor(latent_format.latent_rgb_factors_bias or [0.0] * 3).double()
    shift = torch.zeros(noise.shape[1:], dtype=torch.float64)
    height, width = shift.shape[-2:]
    for y in range(height):
        for x in range(width):
            color = background
            if y < height // 2 and x < width // 2:
                color = colors[0]
            elif y >= height // 4 and x >= 3 * width // 4:
                color = colors[1]
            if color is not None:
                wanted = 2 * torch.tensor(color).double() - 1 - bias
                shift[..., y, x] = torch.linalg.lstsq(factors.T, wanted, driver="gelsd").solution.reshape(
                    -1, *[1] * (shift.ndim - 3)
                )
    return noise + UNIT * shift.to(noise)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


NOISE = tiny.noise(32, 32, batch=2)


class TestARunFromShiftedNoise:
    @pytest.mark.parametrize("background", [None, WHITE])
    @pytest.mark.parametrize(
        "sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "er_sde", "euler_cfg_pp", "dpm_adaptive"]
    )
    def test_is_what_the_node_gives(self, model: Any, sampler: str, background: tuple | None) -> None:
        named = "" if background is None else "a thing on a white background"
        got = tiny.sample(started(model, background=named), NOISE, sampler=sampler)
        wanted = tiny.sample(model, by_hand(model, NOISE, background), sampler=sampler)
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()
        assert (got - tiny.sample(model, NOISE, sampler=sampler)).abs().max() > 0.01 * wanted.abs().max()

    @pytest.mark.parametrize("steps", [4, 10])
    @pytest.mark.parametrize("scheduler", ["karras", "simple", "ddim_uniform", "beta", "sgm_uniform"])
    def test_with_every_scheduler(self, model: Any, scheduler: str, steps: int) -> None:
        got = tiny.sample(started(model), NOISE, scheduler=scheduler, steps=steps)
        wanted = tiny.sample(model, by_hand(model, NOISE, None), scheduler=scheduler, steps=steps)
        assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()

    def test_of_a_v_model(self) -> None:
        model = tiny.unet("sd2", comfy.model_base.ModelType.V_PREDICTION)
        got = tiny.sample(started(model), NOISE)
        wanted = tiny.sample(model, by_hand(model, NOISE, None))
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()

    @pytest.mark.parametrize("name", ["flux", "sd3", "wan", "qwen"])
    def test_of_flow_models_whose_empty_latents_are_not_zero(self, name: str) -> None:
        model = dit.build(name)
        noise = dit.noise(name, 32, 32, frames=2 if name == "wan" else 1)
        latent = torch.full_like(noise, 0.0609)
        got = dit.sample(started(model), noise, latent=latent)
        wanted = dit.sample(model, by_hand(model, noise, None), latent=latent)
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()

    def test_the_strength_counts(self, model: Any) -> None:
        got = tiny.sample(started(model, strength=0.5), NOISE)
        half = NOISE + 0.5 * (by_hand(model, NOISE, None) - NOISE)
        wanted = tiny.sample(model, half)
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()

    def test_one_mask_per_picture(self, model: Any) -> None:
        left, _ = boxes()
        both = Regions((Region(torch.cat([left, torch.zeros_like(left)]), "a red star"),))
        got = tiny.sample(started(model, both), NOISE)
        plain = tiny.sample(model, NOISE)
        assert not torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[1])

    def test_other_noise_comes_first_whatever_the_order_of_nodes(self) -> None:
        """Noise that is exchanged afterwards would be without the shift."""
        world, given = techniques.shapesworld(), {"regions": techniques.halves(), "prompt": techniques.PROMPT}
        with torch.inference_mode():
            model = demo_model.load_model()
            dense = {"model": model, "clip": world.clip, **given, "arranged_noises": 2, "layout_iterations": 1}
            after, positive, negative, _ = techniques.outputs(FoveaDenseDiffusion, **dense)
            before = started(model, techniques.halves())
            first, *_ = techniques.outputs(FoveaDenseDiffusion, **{**dense, "model": before})
            pictures = [tiny.sample(each, world.start, 4.0, 2, positive, negative)
                        for each in (first, started(after, techniques.halves()))]  # fmt: skip
        assert torch.equal(*pictures)

    def test_several_nodes_add_up(self, model: Any) -> None:
        left, right = (Regions((each,)) for each in regions().items)
        got = tiny.sample(started(started(model, left), right), NOISE)
        wanted = tiny.sample(model, by_hand(model, NOISE, None))
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


class TestColors:
    def test_a_regions_own_color_comes_first(self, model: Any) -> None:
        got = tiny.sample(started(model, regions(color=BLUE)), NOISE)
        wanted = tiny.sample(model, by_hand(model, NOISE, None, (BLUE, BLUE)))
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()

    def test_what_it_was_painted_in_counts_only_where_asked(self, model: Any) -> None:
        painted = regions(painted_in=BLUE)
        assert torch.equal(tiny.sample(started(model, painted), NOISE), tiny.sample(started(model), NOISE))
        got = tiny.sample(started(model, painted, color_source="painted"), NOISE)
        wanted = tiny.sample(model, by_hand(model, NOISE, None, (BLUE, BLUE)))
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()

    def test_a_regions_strength_is_that_of_its_color(self, model: Any) -> None:
        left, right = regions().items
        weak, none = (Regions((replace(left, strength=strength), right)) for strength in (0.5, 0.0))
        moved, half, gone = (
            started(model, each).model_options["transformer_options"][STARTS][0].painting.fitted(NOISE)
            for each in (regions(), weak, none)
        )
        assert (half - (moved + gone) / 2).abs().max() < 1e-5 and (moved - gone).abs().max() > 0.1

    def test_a_picture_gives_the_mean_of_every_place(self, model: Any) -> None:
        picture = torch.ones(1, 64, 64, 3)
        picture[:, :32, :32] = torch.tensor(BLUE)
        picture[:, 16:, 48:] = torch.tensor([[[RED]]])
        picture[:, 16:32, 48:] = torch.tensor([[[RED]]])
        got = tiny.sample(started(model, image=picture), NOISE)
        wanted = tiny.sample(model, by_hand(model, NOISE, WHITE, (BLUE, RED)))
        assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()

    def test_regions_without_a_color_are_left_out_and_named(self, model: Any) -> None:
        left, right = boxes()
        some = Regions((Region(left, "a dog"), Region(right, "a blue circle")))
        _, painting, report = techniques.outputs(FoveaRegionStart, model=model, regions=some)
        assert "'a dog' has no color word" in report and "circle" not in report
        assert painting[0, 10, 10].tolist() == [0.5] * 3 and painting[0, -1, -1].tolist() == [0, 0, 1]
        none = Regions((Region(left, "a dog"),))
        assert started(model, none) is model

    def test_a_wrong_number_of_a_color_is_named(self, model: Any) -> None:
        with pytest.raises(ValueError, match=r"Region Start: background: '#dc262' is no color: write #dc2626"):
            started(model, background="#dc262")

    @pytest.mark.parametrize("prompt", ["star", "tomato", "1girl,solo,forest", "whte", "a dog in the garden"])
    def test_a_prompt_that_names_no_color_leaves_the_background_alone(self, model: Any, prompt: str) -> None:
        """A prompt of one word too, though it be a web color's name: the shipped graphs connect whole prompts."""
        _, painting, report = techniques.outputs(FoveaRegionStart, model=model, regions=regions(), background=prompt)
        assert "background names no color" in report and painting[0, -1, 0].tolist() == [0.5] * 3

    def test_with_a_vae_the_painting_is_what_the_vae_makes_of_one(self) -> None:
        """Far from edges, which a VAE blurs over."""
        with torch.inference_mode():
            model, vae = demo_model.load_model(), demo_model.load_vae()
            (start,) = started(model, background="white", vae=vae).model_options["transformer_options"][STARTS]
            picture = torch.ones(1, 256, 256, 3)
            picture[:, :128, :128] = torch.tensor(RED)
            picture[:, 64:, 192:] = torch.tensor(BLUE)
            wanted = model.model.process_latent_in(vae.encode(picture))
            got = start.painting.fitted(torch.zeros_like(wanted))
        for y, x in ((slice(4, 12), slice(4, 12)), (slice(14, 26), slice(26, 30)), (slice(20, 28), slice(4, 20))):
            assert (got - wanted)[..., y, x].abs().max() < 0.5  # colors lie about 3 apart

    def test_latents_that_the_preview_sees_in_another_form_need_a_vae(self) -> None:
        """Flux 2's preview has a map for 32 channels, its latents have 128."""
        model = tiny.unet("sd15")
        model.model.latent_format = comfy.latent_formats.Flux2()
        with pytest.raises(ValueError, match="connect its VAE"):
            started(model)

    def test_a_vae_of_another_model_is_refused(self) -> None:
        with torch.inference_mode(), pytest.raises(ValueError, match=r"not the model's, which have 16 channels"):
            started(dit.build("flux"), vae=demo_model.load_vae())


class TestWhereItDoesNothing:
    def test_strength_zero_is_the_model_itself(self, model: Any) -> None:
        assert started(model, strength=0.0) is model and started(model, Regions()) is model
        assert started(model, Regions(), background="white") is model

    def test_regions_that_begin_later_are_left_out(self, model: Any) -> None:
        late, now = regions().items[0], regions().items[1]
        some = Regions((replace(late, start=0.3), now))
        patched, _, report = techniques.outputs(FoveaRegionStart, model=model, regions=some)
        assert "'a plain red star' begins later" in report
        assert torch.equal(tiny.sample(patched, NOISE), tiny.sample(started(model, Regions((now,))), NOISE))

    def test_a_background_without_a_color_is_told(self, model: Any) -> None:
        _, _, report = techniques.outputs(FoveaRegionStart, model=model, regions=regions(), background="a studio shot")
        assert report.startswith("background names no color: what is behind the regions is left to the seed.")

    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"denoise": 0.5}, "begins at 0.6"),
            ({"start_step": 2, "steps": 4}, "begins at 0.67"),
            (
                {"latent": torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(5))},
                "begins with a picture",
            ),
        ],
    )
    def test_runs_that_begin_with_a_picture(
        self, model: Any, settings: dict, why: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            got = tiny.sample(started(model), NOISE, **settings)
        assert torch.equal(got, tiny.sample(model, NOISE, **settings))
        assert [NOTHING in r.getMessage() and why in r.getMessage() for r in caplog.records] == [True]

    def test_runs_without_noise(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        nothing = torch.zeros_like(NOISE)
        assert torch.equal(tiny.sample(started(model), nothing), tiny.sample(model, nothing))
        assert "no noise is added" in caplog.text

    def test_a_model_that_sees_no_noise_is_refused(self, model: Any) -> None:
        patched = started(model)

        class FromPicture(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.IMG_TO_IMG_FLOW):
            pass

        patched.add_object_patch("model_sampling", FromPicture())
        with pytest.raises(ValueError, match="FromPicture starts from a picture"):
            tiny.sample(patched, NOISE)


class TestInpainting:
    def test_only_what_the_mask_frees_is_shifted(self, model: Any) -> None:
        """At full noise a picture under a mask is no obstacle; what the mask keeps has the noise it had."""
        picture = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(5))
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., :12] = 1
        got = tiny.sample(started(model), NOISE, latent=picture, noise_mask=mask)
        shifted = torch.where(mask > 0, by_hand(model, NOISE, None), NOISE)
        wanted = tiny.sample(model, shifted, latent=picture, noise_mask=mask)
        assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()
        assert torch.allclose(got[..., 12:], picture[..., 12:], atol=1e-4)


class TestSearches:
    def test_no_gradient_is_taken_through_exchanged_noise(self) -> None:
        world = techniques.shapesworld()
        with torch.inference_mode():
            given = {"clip": world.clip, "regions": techniques.halves(), "prompt": techniques.PROMPT}
            model, positive, negative, _ = techniques.outputs(
                FoveaDenseDiffusion, model=demo_model.load_model(), **given, arranged_noises=1
            )
            search = {"vae": world.vae, "positive": positive, "negative": negative, "scorer": world.scorer,
                      "latent_image": {"samples": torch.zeros(1, 4, 32, 32)}, "prompt": "x", "steps": 2}  # fmt: skip
            with pytest.raises(NoGradient, match="arranged_noises of Dense Diffusion to 0"):
                techniques.outputs(techniques.FoveaOptimizeLatent, model=model, **search)
            samples, *_ = techniques.outputs(techniques.FoveaBestOfN, model=model, **search, candidates=2)
        assert torch.isfinite(samples["samples"]).all()

    @pytest.mark.parametrize("search", ["best_of_n", "optimize_through", "optimize_past"])
    def test_their_noise_draws_the_same_with_the_node(self, search: str) -> None:
        """The NOISE is the one before the start, which is applied to it once more where it is sampled; `start` has it
        applied."""
        world = techniques.shapesworld()
        with torch.inference_mode():
            model = started(demo_model.load_model(), techniques.halves())
            given = {"vae": world.vae, "positive": world.positive, "negative": world.negative, "prompt": "x",
                     "scorer": world.scorer, "latent_image": {"samples": torch.zeros(1, 4, 32, 32)}}  # fmt: skip
            path = {"gradient_path": "all_steps" if search == "optimize_through" else "past_model", "iterations": 1}
            node = techniques.FoveaBestOfN if search == "best_of_n" else techniques.FoveaOptimizeLatent
            settings = {"candidates": 2, "steps": 3, "cfg": 4.0, **({} if search == "best_of_n" else path)}
            samples, _, begun, noise, *_ = techniques.outputs(node, model=model, **given, **settings)
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(world.positive, world.negative)
            guider.set_cfg(4.0)
            sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 3)
            again = SamplerCustomAdvanced.execute(
                noise, guider, comfy.samplers.sampler_object("euler"), sigmas, given["latent_image"]
            ).result[0]["samples"]
        assert (again - samples["samples"]).abs().max() < 1e-3 * again.abs().max()
        (start,) = model.model_options["transformer_options"][STARTS]
        shift = UNIT * start.painting.fitted(torch.zeros(1, 4, 32, 32))
        unit = noise.generate_noise(given["latent_image"])
        sampling = model.get_model_object("model_sampling")
        x = sampling.noise_scaling(sigmas[0], unit + shift, torch.zeros_like(unit), True)
        assert torch.allclose(begun["samples"], model.model.process_latent_out(x), rtol=1e-4, atol=1e-3)
