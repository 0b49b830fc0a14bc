"""Prompts with regions as the nodes make them: whose words are whose, what is left out, what is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from region_steps import LATER, PAPER, assert_alike, marked, steered, two_regions
from safetensors.torch import save_file
from sag_steps import relative
from tiny_encoders import encoder, sd15_encoder

import nodes as comfy_nodes
from fovea.attention import hooks
from fovea.guidance.attention_map.recorders import PhraseViewer
from fovea.guidance.regions import prompt_encoding
from fovea.guidance.regions.control import RegionControl
from fovea.guidance.regions.masks import Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.regions.score_bias import RegionBias
from fovea.nodes.masked_prompts import FoveaRegionsToConditioning
from fovea.nodes.region_sources import FoveaRegion, FoveaRegionsFromBoxes
from fovea.nodes.regions import FoveaDenseDiffusion, FoveaPaintWithWords

PROMPT = "a red star and a blue circle"
DENSE = {"method": "fovea", "mode": "prompt"}
PAINT = {
    "strength": 0.4, "score_unit": "row max", "end_percent": 1.0, "start_percent": 0.0, "mode": "prompt",
    "blocks": "all", "encode_regions_separately": True, "negative_prompt": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


@pytest.fixture(scope="module")
def clip() -> Any:
    return sd15_encoder()


def halves(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = torch.zeros(1, size, size), torch.zeros(1, size, size)
    left[..., : size // 2], right[..., size // 2 :] = 1, 1
    return left, right


def region(
    mask: torch.Tensor, prompt: str, before: Regions | None = None, strength: float = 1.0, **more: Any
) -> Regions:
    return FoveaRegion.execute(mask, prompt, strength, "", regions=before, **more).result[0]


def two(first: str = "a red star", second: str = "a blue circle") -> Regions:
    left, right = halves()
    return region(right, second, region(left, first))


def dense(model: Any, clip: Any, regions: Regions, prompt: str = PROMPT, **changes: Any) -> tuple:
    given = {"model": model, "clip": clip, "regions": regions, "prompt": prompt}
    return techniques.outputs(FoveaDenseDiffusion, **{**given, **DENSE, **changes})


def paint(model: Any, clip: Any, regions: Regions, prompt: str = PROMPT, **changes: Any) -> tuple:
    return FoveaPaintWithWords.execute(model, clip, regions, prompt, **{**PAINT, **changes}).result


def tokens_of(result: tuple) -> tuple:
    return result[1][0][1][MARK].tokens


def sample(model: Any, positive: Any, negative: Any, **more: Any) -> torch.Tensor:
    return tiny.sample(model, tiny.noise(32, 32), 5.0, 3, positive, negative, **more)


class TestWhoseWords:
    def test_an_embedding_is_found_where_the_same_one_stands(self, model: Any, tmp_path: Path) -> None:
        for name, seed, vectors in (("hero", 1, 1), ("villain", 2, 1), ("style", 3, 3), ("other", 4, 3)):
            values = torch.randn(vectors, tiny.CONTEXT, generator=torch.Generator().manual_seed(seed))
            save_file({"emb_params": values}, tmp_path / f"{name}.safetensors")
        clip = sd15_encoder(str(tmp_path))
        regions = two("embedding:hero", "embedding:villain")
        assert tokens_of(dense(model, clip, regions, "embedding:villain fights embedding:hero")) == ((3,), (1,))
        with pytest.raises(ValueError, match="Dense Diffusion"):
            dense(model, clip, two("embedding:style", "a house"), "embedding:other and a house")
        result = dense(model, clip, two("embedding:style", "a house"), "a house beside embedding:style")
        assert [len(tokens) for tokens in tokens_of(result)] == [3, 2]

    @pytest.mark.parametrize(
        "first, second, prompt",
        [
            (r"luna \(moon tale\)", r"sol \(moon tale\)", r"2girls, luna \(moon tale\), blue hair, sol \(moon tale\)"),
            (r"luna \(moon tale\)", r"sol \(moon tale\)", ""),
            ("1girl, red hair,", "1boy, blue hair,", ""),
            ("A red fox.", "A white house.", ""),
            ("a happy dog!", "a cat", "a happy dog!, a cat"),
            ('a sign saying "OPEN"', "a cat", 'a sign saying "OPEN", a cat'),
        ],
    )
    def test_marks_at_the_ends_do_not_matter(self, model: Any, clip: Any, first: str, second: str, prompt: str) -> None:
        one, other = tokens_of(dense(model, clip, two(first, second), prompt))
        assert one and other and not {*one} & {*other}

    @pytest.mark.parametrize(
        "first, second, prompt, shared",
        [
            ("a woman in a red dress", "a red dress", "photo of a woman in a red dress", (6, 7, 8)),
            ("red fox on grass", "grass field", "a red fox on grass field", (5,)),
        ],
    )
    def test_a_prompt_inside_of_anothers_is_shared(
        self, model: Any, clip: Any, first: str, second: str, prompt: str, shared: tuple
    ) -> None:
        result = dense(model, clip, two(first, second), prompt)
        one, other = tokens_of(result)
        assert tuple(sorted({*one} & {*other})) == shared and not result[3]

    def test_one_prompt_of_several_regions_is_dealt_out(self, clip: Any) -> None:
        prompt = "a red star and a red star and a star"
        found = prompt_encoding.find_regions(clip, prompt, ["a red star", "a star", "a red star"])
        assert found.tokens == [(1, 2, 3), (9, 10), (5, 6, 7)] and not found.notes
        assert found.free == (4, 8, *range(11, 77)), "without the start token, with those that sum up the prompt"
        found = prompt_encoding.find_regions(clip, prompt, ["a star", "a star"])
        assert found.tokens == [(9, 10)] * 2 and len(found.notes) == 1
        found = prompt_encoding.find_regions(clip, "a dog, a dog and a dog", ["a dog", "a dog"])
        assert found.tokens == [(1, 2), (4, 5)] and found.free[:4] == (3, 6, 7, 8), "the third is nobody's"
        found = prompt_encoding.find_regions(clip, "red star, red star", ["red star", ""])
        assert found.tokens == [(1, 2, 4, 5), ()] and found.free[0] == 3

    @pytest.mark.parametrize("separate", [True, False])
    def test_a_weight_of_the_region_counts_where_the_prompt_has_none(self, clip: Any, separate: bool) -> None:
        def encoded(first: str, prompt: str) -> torch.Tensor:
            return prompt_encoding.positive(clip, prompt, two(first), "prompt", separate, PAPER).conditioning[0][0]

        weighted = encoded("(a red star:1.6)", PROMPT)
        assert torch.equal(weighted, encoded("a red star", "(a red star:1.6) and a blue circle"))
        assert torch.equal(weighted, encoded("(a red star:1.6)", "(a red star:1.6) and a blue circle"))
        assert relative(weighted, encoded("a red star", PROMPT)) > 1e-3

    def test_all_of_a_combined_conditioning_is_used(self, model: Any, clip: Any) -> None:
        left, right = halves()
        star, pumpkin = (prompt_encoding.encode(clip, text) for text in ("a red star", "a huge pumpkin"))
        later = comfy_nodes.ConditioningSetTimestepRange().set_range(pumpkin, 0.5, 1.0)[0]
        for given, said in ((star + pumpkin, False), (star + later, True)):
            regions = region(right, "a blue circle", region(left, "", conditioning=given))
            _, positive, _, report = dense(model, clip, regions, mode="concat")
            assert torch.equal(positive[0][0][:, 77:231], torch.cat([star[0][0], pumpkin[0][0]], dim=1))
            assert tokens_of((None, positive))[0] == tuple(range(77, 231)) and bool(report) == said


class TestTheRestOfThePrompt:
    def test_keeps_its_share_of_attention(self, model: Any, clip: Any) -> None:
        """Read where regions fill the picture: background and style get what they get without regions, or with
        rest_strength 0 next to nothing. The nodes' own recorder reads them."""
        prompt = f"{PROMPT} on a white background"
        seen: dict[str, float] = {}

        class Reading:
            viewer = PhraseViewer(None, tokens=tuple(range(8, 12)))

            def begin(self, run: Any) -> tuple:
                return (self.viewer,)

        for name, strength in (("plain", None), ("kept", 1.0), ("drowned", 0.0)):
            if strength is None:
                patched, positive = model.clone(), prompt_encoding.encode(clip, prompt)
            else:
                settings = {"rest_strength": strength, "encode_regions_separately": False, "self_strength": 0.0}
                patched, positive, *_ = dense(model, clip, two(), prompt, **settings)
            reading = Reading()
            reading.viewer.records.clear()
            hooks.install(patched, reading)
            tiny.sample(patched, tiny.noise(32, 32), 1.0, 1, positive, prompt_encoding.encode(clip, ""))
            seen[name] = float(next(iter(reading.viewer.records.values())).values.mean())
        assert seen["kept"] == pytest.approx(seen["plain"], rel=1e-3) and seen["drowned"] < 0.2 * seen["plain"]


class TestRegionsWithoutAPlace:
    OUTSIDE = '[{"x": 900, "y": 900, "width": 50, "height": 50, "label": "a red star"}]'

    @pytest.mark.parametrize("method", ["fovea", "densediffusion", "hard"])
    @pytest.mark.parametrize("kind", ["black", "weightless", "no masks", "box outside", "covered"])
    def test_are_as_if_they_were_not_there(self, model: Any, clip: Any, method: str, kind: str) -> None:
        left, right = halves()
        if kind == "box outside":
            empty = FoveaRegionsFromBoxes.execute(512, 512, "", 1.0, boxes=self.OUTSIDE).result[0]
        else:
            mask = {"black": 0 * left, "no masks": left[:0], "covered": right}.get(kind, left)
            empty = region(mask, "a red star", strength=0.0 if kind == "weightless" else 1.0)
        settings = {"method": method, "encode_regions_separately": False}
        wanted = dense(model, clip, region(right, "a blue circle"), **settings)
        got = dense(model, clip, region(right, "a blue circle", empty), **settings)
        assert relative(sample(*got[:3]), sample(*wanted[:3])) < (0.02 if kind == "box outside" else 1e-6)
        assert "a red star" in got[3] and not wanted[3]

    def test_nothing_else_there_is_a_plain_prompt(self, model: Any, clip: Any) -> None:
        got, positive, _, report = dense(model, clip, region(torch.zeros(1, 8, 8), "a red star"))
        assert got is model and MARK not in positive[0][1] and report


class TestSeveralNodes:
    @pytest.mark.parametrize(
        "node, changes", [(dense, {}), (paint, {}), (dense, {"start_percent": 0.9, "end_percent": 1.0})]
    )
    def test_each_prompt_is_steered_by_its_own_node(self, model: Any, clip: Any, node: Any, changes: dict) -> None:
        top, bottom = (mask.mT.contiguous() for mask in halves())
        second = region(bottom, "a blue circle", region(top, "a red star"))
        first = dense(model, clip, two())
        alone, chained = (node(start, clip, second, **changes) for start in (model, first[0]))
        assert torch.equal(sample(*chained[:3]), sample(*alone[:3]))
        assert torch.equal(sample(chained[0], *first[1:3]), sample(*first[:3])), "and the first one's by the first"


class TestWhatIsSaid:
    """One line in the log where nothing would happen without a word."""

    @pytest.fixture
    def result(self, model: Any, clip: Any) -> tuple:
        return dense(model, clip, two(), encode_regions_separately=False)

    @pytest.mark.parametrize("case", ["plain prompt", "concat", "average", "denoise"])
    def test_runs_without_effect(
        self, model: Any, clip: Any, result: tuple, case: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        patched, positive, negative, _ = result
        tags = prompt_encoding.encode(clip, "masterpiece, oil painting")
        prompts = {
            "plain prompt": prompt_encoding.encode(clip, PROMPT),
            "concat": comfy_nodes.ConditioningConcat().concat(tags, positive)[0],
            "average": comfy_nodes.ConditioningAverage().addWeighted(tags, positive, 0.3)[0],
            "denoise": positive,
        }
        more = {"latent": tiny.noise(32, 32, seed=5), "denoise": 0.5} if case == "denoise" else {}
        with caplog.at_level(logging.WARNING, logger="fovea"):
            got = sample(patched, prompts[case], negative, **more)
        assert [record.name.split(".")[0] for record in caplog.records] == ["fovea"], "once per run"
        assert torch.equal(got, sample(model, prompts[case], negative, **more))

    def test_nothing_where_all_is_well(self, result: tuple, caplog: pytest.LogCaptureFixture) -> None:
        sample(*result[:3])
        assert not caplog.records

    def test_no_regions_and_regions_without_a_prompt_are_told(self, model: Any, clip: Any) -> None:
        *_, report = dense(model, clip, Regions())
        assert report == "There is no region: none is connected, painted or found."
        *_, report = dense(model, clip, two(""))
        assert report == "region 1 has no prompt: nothing is asked of its place."

    def test_the_report_is_in_the_log(self, model: Any, clip: Any, caplog: pytest.LogCaptureFixture) -> None:
        *_, report = dense(model, clip, two("a wolf"), mode="auto")
        assert report and [record.message for record in caplog.records] == [f"Dense Diffusion: {report}"]


class TestConcat:
    """Regions' prompts behind the prompt, for text encoders whose words cannot be told apart afterwards."""

    @pytest.fixture(scope="class")
    def flux(self) -> tuple[Any, Any]:
        return dit.build("flux", vec_in_dim=tiny.CONTEXT), encoder("flux")

    def test_without_padding(self, flux: tuple[Any, Any]) -> None:
        model, clip = flux
        _, positive, *_ = dense(model, clip, two(), mode="concat")
        whole = prompt_encoding.encode(clip, PROMPT)[0][0].shape[1]
        words = [len(clip.tokenize(text, return_word_ids=True)["t5xxl"][0]) for text in ("a red star",)]
        assert words[0] >= 77, "T5 is padded"
        lengths = [len(tokens) for tokens in tokens_of((None, positive))]
        assert positive[0][0].shape[1] == whole + sum(lengths) and max(lengths) < 10

    def test_outside_of_the_window_it_is_the_prompt_alone(self, flux: tuple[Any, Any]) -> None:
        model, clip = flux
        later = {"mode": "concat", "start_percent": 0.98, "end_percent": 0.99}
        patched, positive, negative, _ = dense(model, clip, two(), **later)
        plain, start = prompt_encoding.encode(clip, PROMPT), dit.noise("flux", 16, 16)
        got = tiny.sample(patched, start, 1.0, 3, positive, negative)
        assert torch.equal(got, tiny.sample(model, start, 1.0, 3, plain, negative))
        assert_alike(
            tiny.sample(patched, start, 3.0, 3, positive, negative), tiny.sample(model, start, 3.0, 3, plain, negative)
        )
        seen = tiny.sample(model, start, 1.0, 3, positive, negative)
        assert relative(got, seen) > 1e-3, "twin: appended tokens would be seen"

    @pytest.mark.parametrize("name", sorted(dit.KINDS))
    def test_so_on_every_kind_of_transformer(self, name: str) -> None:
        """Also where a mask or a number of tokens goes with the prompt."""
        model, start = dit.build(name), dit.noise(name, 16, 16)
        (long, options), *_ = dit.prompt(1)
        length = long.shape[1]
        more = torch.cat([long, torch.randn(1, 5, long.shape[2], generator=torch.Generator().manual_seed(3))], dim=1)
        for masked in (False, True):
            mask = {"attention_mask": torch.ones(1, length + 5)} if masked else {}
            short_mask = {"attention_mask": torch.ones(1, length)} if masked else {}
            places = (tuple(range(length, length + 3)), (length + 3, length + 4))
            prompt = marked([[more, {**options, **mask}]], two_regions(), places, LATER, appended=length)
            got = tiny.sample(steered(model), start, 1.0, 2, prompt, dit.prompt(2))
            plain = tiny.sample(model, start, 1.0, 2, [[long, {**options, **short_mask}]], dit.prompt(2))
            assert torch.equal(got, plain) and torch.isfinite(got).all()
            seen = tiny.sample(model, start, 1.0, 2, prompt, dit.prompt(2))
            assert not torch.equal(got, seen), "twin: appended tokens would be seen"


class TestRegionsToConditioning:
    @pytest.mark.parametrize("prompt, strength", [("", 0.5), ("", 0.0), (PROMPT, 0.0)])
    def test_places_of_no_region_have_the_prompt(self, model: Any, clip: Any, prompt: str, strength: float) -> None:
        """Where no prompt acted, ComfyUI would predict 0 and CFG turn the negative prompt around."""
        (conditioning,) = FoveaRegionsToConditioning.execute(
            clip, region(halves(32)[0], "a red star"), prompt, strength
        ).result
        negative, start = prompt_encoding.encode(clip, "ugly"), tiny.noise(32, 32)
        got, there, elsewhere = (
            tiny.sample(model, start, 5.0, 1, positive, negative)
            for positive in (conditioning, *(prompt_encoding.encode(clip, text) for text in ("a red star", prompt)))
        )
        assert relative(got[..., 16:], elsewhere[..., 16:]) < 1e-5
        assert relative(got[..., :16], there[..., :16]) < 1e-2, "beside a region it weighs nothing"

    def test_the_prompt_is_left_out_where_regions_are_everywhere_always(self, clip: Any) -> None:
        everywhere = torch.ones(1, 8, 8)

        def made(*windows: tuple[float, float], prompt: str = "", strength: float = 0.5) -> list:
            regions = None
            for start, end in windows:
                regions = region(everywhere, "a star", regions, start_percent=start, end_percent=end)
            return FoveaRegionsToConditioning.execute(clip, regions, prompt, strength).result[0]

        assert ["mask" in options for _, options in made((0.0, 1.0))] == [True]
        assert ["mask" in options for _, options in made((0.0, 1.0), prompt="x")] == [True, False]
        (_, options), (_, alone) = made((0.0, 0.5))
        assert (options["start_percent"], options["end_percent"]) == (0.0, 0.5) and 0 < alone["strength"] < 1e-3
        turns = made((0.0, 0.5), (0.5, 1.0))
        assert [(o["start_percent"], o["end_percent"], float(o["mask"].min())) for _, o in turns] == [
            (0.0, 0.5, 1.0), (0.5, 1.0, 1.0)]  # fmt: skip

    def test_a_region_behind_has_its_place_until_another_begins(self, clip: Any) -> None:
        left, _ = halves(32)
        regions = region(left, "a circle", region(torch.ones(1, 32, 32), "a star"), start_percent=0.25, end_percent=0.5)
        behind = [
            (o["start_percent"], o["end_percent"], float(o["mask"].mean()))
            for _, o in FoveaRegionsToConditioning.execute(clip, regions, "", 0.5).result[0][:3]
        ]
        assert behind == [(0.0, 0.25, 1.0), (0.25, 0.5, 0.5), (0.5, 1.0, 1.0)]

    def test_a_conditioning_keeps_its_own_range(self, clip: Any) -> None:
        later, (left, right) = comfy_nodes.ConditioningSetTimestepRange(), halves(32)
        ranged = later.set_range(prompt_encoding.encode(clip, "a star"), 0.3, 1.0)[0]
        regions = region(right, "a circle", region(left, "", conditioning=ranged), end_percent=0.6)
        (_, given), (_, windowed), _ = FoveaRegionsToConditioning.execute(clip, regions, "", 0.5).result[0]
        assert (given["start_percent"], given["end_percent"]) == (0.3, 1.0)
        assert (windowed["start_percent"], windowed["end_percent"]) == (0.0, 0.6)

    def test_a_negative_prompt_alone_asks_for_nothing_and_is_told(
        self, clip: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its place stays its own: nobody else's, so the prompt's."""
        left, _ = halves(32)
        (front,) = FoveaRegion.execute(left, "", 1.0, "ugly", region(torch.ones(1, 32, 32), "a star")).result
        with caplog.at_level(logging.WARNING):
            (_, star), (_, alone) = FoveaRegionsToConditioning.execute(clip, front, "", 0.5).result[0]
        assert torch.equal(star["mask"], 1 - left) and "mask" not in alone
        assert "'region 2' has a negative prompt, which does nothing here" in caplog.text

    @pytest.mark.parametrize("count, frames", [(9, 3), (3, 3), (1, 3), (2, 5)])
    def test_masks_of_a_film_fit_its_frames(self, clip: Any, count: int, frames: int) -> None:
        wan, start = dit.build("wan"), dit.noise("wan", 16, 16, frames=frames)
        left, right = (mask.repeat(count, 1, 1) for mask in halves(32))
        regions = region(right, "a blue circle", region(left, "a red star"))
        found = FoveaRegionsToConditioning.execute(clip, regions, PROMPT, 0.5, {"samples": start}).result[0]
        got = tiny.sample(wan, start, 3.0, 1, found, prompt_encoding.encode(clip, ""))
        assert torch.isfinite(got).all()

    def test_masks_of_pictures_fit_the_batch(self, model: Any, clip: Any) -> None:
        left, right = halves(32)
        regions = region(torch.cat([left, right, left]), "a red star")
        latent = {"samples": torch.zeros(4, 4, 16, 16)}
        found = FoveaRegionsToConditioning.execute(clip, regions, PROMPT, 0.5, latent).result[0]
        assert torch.equal(found[0][1]["mask"], torch.cat([left, right, left, left]))
        got = tiny.sample(model, tiny.noise(16, 16, batch=4), 3.0, 1, found, prompt_encoding.encode(clip, ""))
        assert torch.isfinite(got).all()
        with pytest.raises(ValueError, match="latent"):
            FoveaRegionsToConditioning.execute(clip, regions, PROMPT, 0.5)


def test_wildcards_are_the_editors() -> None:
    """{a|b}: the editor resolves it in inputs that say so, as in ComfyUI's own text node."""
    for node in (FoveaDenseDiffusion, FoveaPaintWithWords, FoveaRegion, FoveaRegionsToConditioning):
        info = node.GET_NODE_INFO_V1()["input"]
        texts = {
            name: spec[1]
            for group in info.values()
            for name, spec in group.items()
            if "prompt" in name and spec[0] == "STRING"
        }
        assert texts and all(options.get("dynamicPrompts") for options in texts.values()), node


def test_tokens_that_a_mask_hides_do_not_count() -> None:
    """The bias is counted in scores: those of padding, which the prompt's mask hides, are none of them."""
    model, start = dit.build("qwen"), dit.noise("qwen", 16, 16)
    (features, options), *_ = dit.prompt(1)
    mask = torch.ones(1, features.shape[1], dtype=torch.long)
    mask[:, -3:] = 0
    control = RegionControl(RegionBias(temperature=0.0, background=False), 1.0, 0.3)

    def run(patched: Any, seed: int) -> torch.Tensor:
        given = features.clone()
        given[:, -3:] = torch.randn(1, 3, features.shape[2], generator=torch.Generator().manual_seed(seed))
        prompt = marked([[given, {**options, "attention_mask": mask}]], two_regions(), ((1, 2), (3,)), control)
        return tiny.sample(patched, start, 1.0, 1, prompt)

    assert relative(run(model, 1), run(model, 2)) < 1e-5
    assert relative(run(steered(model), 1), run(steered(model), 2)) < 1e-5
    assert relative(run(steered(model), 1), run(model, 1)) > 1e-3
