"""Regions inside the real ComfyUI: steered sampling equals the published operator written out; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as dit
import torch
from comfy.ldm.modules import attention
from region_steps import LATER, PAPER, PLACES, assert_alike, boxes, marked, published, steered, two_regions
from sag_steps import guided
from torch import Tensor

from fovea.attention import hooks
from fovea.attention.recorders import SaliencyRecorder
from fovea.attention.sites import BlockId
from fovea.guidance.regions import augmented_attention, model_patch, prompt_encoding, score_bias
from fovea.guidance.regions.control import RegionControl, noise_to_signal
from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.prompt_regions import MARK
from fovea.guidance.regions.score_bias import RegionBias
from fovea.guidance.schedule import left_of_schedule
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.masked_prompts import FoveaRegionsToConditioning
from fovea.nodes.regions import FoveaDenseDiffusion, FoveaPaintWithWords

DENSE = {
    "cross_strength": 1.0, "self_strength": 0.3, "time_exponent": 5.0, "end_percent": 0.3, "method": "densediffusion",
}  # fmt: skip
PAINT = {"negative_prompt": "", "strength": 0.4, "score_unit": "row max", "end_percent": 1.0, "start_percent": 0.0,
         "mode": "auto", "blocks": "all", "encode_regions_separately": True}  # fmt: skip
CAPTION = "a plain red star and a plain blue circle on a white background"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.unet("sd15")


@pytest.fixture(scope="module")
def shapesworld() -> dict[str, Any]:
    return {"model": demo_model.load_model(), "clip": demo_model.load_clip()}


class TestAgainstThePublishedOperator:
    @pytest.mark.parametrize("cfg", [1.0, 5.0])
    @pytest.mark.parametrize("kind", ["sd15", "sdxl"])
    def test_sampling_is_the_same(self, kind: str, cfg: float) -> None:
        model, regions = tiny.unet(kind), two_regions()
        prompt = tiny.prompt(1)
        with published(model, regions, PLACES, PAPER):
            wanted = tiny.sample(model, tiny.noise(batch=2), cfg, 6, prompt)
        got = tiny.sample(steered(model), tiny.noise(batch=2), cfg, 6, marked(prompt, regions))
        plain = tiny.sample(model, tiny.noise(batch=2), cfg, 6, prompt)
        assert_alike(got, wanted, 1e-3)
        assert (got - plain).abs().max() > 0.05 * plain.abs().max()
        with published(model, regions, PLACES, PAPER), tiny.watching(model) as calls:
            tiny.sample(model, tiny.noise(), cfg, 1, prompt)
        with tiny.watching(model) as ours:  # one evaluation, before errors grow
            tiny.sample(steered(model), tiny.noise(), cfg, 1, marked(prompt, regions))
        assert_alike(ours[0]["output"], calls[0]["output"])

    def test_the_spread_in_place_of_the_range(self, model: Any) -> None:
        control = RegionControl(RegionBias("row std"), 1.0, 0.3, 0.0, 0.3)
        results = []
        for each in (control, PAPER):
            with published(model, two_regions(), PLACES, each):
                results.append(tiny.sample(model, tiny.noise(), 5.0, 4, tiny.prompt(1)))
        prompt = marked(tiny.prompt(1), two_regions(), control=control)
        assert_alike(tiny.sample(steered(model), tiny.noise(), 5.0, 4, prompt), results[0], 1e-3)
        assert (results[1] - results[0]).abs().max() > 0.02 * results[0].abs().max()

    def test_wrong_masks_would_be_noticed(self, model: Any) -> None:
        left, right = boxes()
        with published(model, two_regions(), PLACES, PAPER):
            wanted = tiny.sample(model, tiny.noise(), 5.0, 6, tiny.prompt(1))
        for other in ((left.mT, right.mT), (right, left)):
            prompt = marked(tiny.prompt(1), two_regions(other))
            got = tiny.sample(steered(model), tiny.noise(), 5.0, 6, prompt)
            assert (got - wanted).abs().max() > 0.01 * wanted.abs().max()


class TestNothingElse:
    def test_prompts_without_regions_are_untouched(self, model: Any) -> None:
        plain = tiny.sample(model, tiny.noise(), 5.0, 4)
        assert torch.equal(tiny.sample(steered(model), tiny.noise(), 5.0, 4), plain)

    def test_steps_outside_of_the_window_are_untouched(self, model: Any) -> None:
        got = tiny.sample(steered(model), tiny.noise(), 5.0, 4, marked(tiny.prompt(1), two_regions(), control=LATER))
        assert torch.equal(got, tiny.sample(model, tiny.noise(), 5.0, 4, tiny.prompt(1)))

    def test_negative_rows_are_untouched(self, model: Any) -> None:
        with tiny.watching(model) as calls:
            tiny.sample(model, tiny.noise(), 5.0, 1)
            tiny.sample(steered(model), tiny.noise(), 5.0, 1, marked(tiny.prompt(1), two_regions()))
        plain, ours = (call["output"] for call in calls)
        row = calls[0]["chunks"].index(1)
        assert calls[0]["chunks"] == calls[1]["chunks"]
        assert_alike(ours[row], plain[row], 1e-6)
        assert (plain[1 - row] - ours[1 - row]).abs().max() > 0.01

    def test_a_negative_prompt_with_regions_is_steered_alone(self, model: Any) -> None:
        with tiny.watching(model) as calls:
            tiny.sample(model, tiny.noise(), 5.0, 1)
            negative = marked(tiny.prompt(2), two_regions(), negative=True)
            tiny.sample(steered(model), tiny.noise(), 5.0, 1, negative=negative)
        row = calls[0]["chunks"].index(1)
        assert (calls[0]["output"][row] - calls[1]["output"][row]).abs().max() > 0.01
        assert_alike(calls[1]["output"][1 - row], calls[0]["output"][1 - row], 1e-6)

    def test_number_of_evaluations(self, model: Any) -> None:
        with tiny.watching(model) as calls:
            tiny.sample(steered(model), tiny.noise(), 5.0, 4, marked(tiny.prompt(1), two_regions()))
        assert len(calls) == 4

    def test_the_run_leaves_nothing_behind(self, model: Any) -> None:
        def holds() -> str:
            return repr((model.model_options, model.wrappers, model.callbacks, model.object_patches))

        plain, before, patched = tiny.sample(model, tiny.noise(), 5.0, 3), holds(), steered(model)
        first = tiny.sample(patched, tiny.noise(), 5.0, 3, marked(tiny.prompt(1), two_regions()))
        assert (first - plain).abs().max() > 0.01 * plain.abs().max(), "twin: it does something"
        assert holds() == before and torch.equal(tiny.sample(model, tiny.noise(), 5.0, 3), plain)
        assert torch.equal(tiny.sample(patched, tiny.noise(), 5.0, 3, marked(tiny.prompt(1), two_regions())), first)


class TestBatches:
    def test_items_do_not_depend_on_neighbors(self, model: Any) -> None:
        patched, prompt = steered(model), marked(tiny.prompt(1), two_regions())
        together = tiny.sample(patched, tiny.noise(batch=3), 5.0, 3, prompt)
        for i in range(3):
            alone = tiny.sample(patched, tiny.noise(batch=3)[i : i + 1], 5.0, 3, prompt)
            assert_alike(together[i : i + 1], alone)

    def test_every_picture_has_its_mask(self, model: Any) -> None:
        left, right = boxes()
        several = (torch.cat([left, right]), torch.cat([right, left]))
        patched = steered(model)
        start = tiny.noise().expand(2, -1, -1, -1)
        got = tiny.sample(patched, start, 5.0, 3, marked(tiny.prompt(1), two_regions(several)))
        for i, masks in enumerate(((left, right), (right, left))):
            alone = tiny.sample(patched, tiny.noise(), 5.0, 3, marked(tiny.prompt(1), two_regions(masks)))
            assert_alike(got[i : i + 1], alone)

    @pytest.mark.parametrize("name", [name for name, kind in dit.KINDS.items() if kind.video])
    def test_every_picture_has_its_mask_where_latents_have_an_axis_for_frames(self, name: str) -> None:
        left, right = boxes()
        several = (torch.cat([left, right]), torch.cat([right, left]))
        patched = steered(dit.build(name))
        start = dit.noise(name).repeat_interleave(2, dim=0)
        control = RegionControl(RegionBias(temperature=0.0, background=False), 1.0, 0.3, 0.0, 0.6)
        got = dit.sample(patched, start, positive=marked(dit.prompt(1), two_regions(several), control=control))
        for i, masks in enumerate(((left, right), (right, left))):
            prompt = marked(dit.prompt(1), two_regions(masks), control=control)
            assert_alike(got[i : i + 1], dit.sample(patched, start[:1], positive=prompt))

    def test_masked_prompts_have_a_mask_per_picture_there_too(self) -> None:
        left, right = boxes()
        several, model = two_regions((torch.cat([left, right]), torch.cat([right, left]))), dit.build("qwen")
        start = dit.noise("qwen").repeat_interleave(2, dim=0)
        texts = iter([dit.prompt(1), dit.prompt(3)] * 4)
        # What encodes the empty prompt of places of no region, as wide as this model's.
        clip = SimpleNamespace(tokenize=str, encode_from_tokens_scheduled=lambda _tokens: dit.prompt(4))

        def drawn(regions: Regions, noise: Tensor) -> Tensor:
            items = tuple(replace(each, conditioning=next(texts)) for each in regions.items)
            conditioning = FoveaRegionsToConditioning.execute(
                clip, Regions(items), "", 0.0, {"samples": noise}
            ).result[0]
            return dit.sample(model, noise, positive=conditioning)

        got = drawn(several, start)
        for i, masks in enumerate(((left, right), (right, left))):
            assert_alike(got[i : i + 1], drawn(two_regions(masks), start[:1]))

    def test_several_positive_prompts(self, model: Any) -> None:
        """One of two combined prompts has regions, and the two are of different lengths: its row is what it is alone,
        the others stay as they are."""

        def rows(patched: Any, positive: list, cfg: float = 1.0) -> list[Tensor]:
            with tiny.watching(model) as calls:
                tiny.sample(patched, tiny.noise(), cfg, 1, positive)
            return [row for call in calls for row in call["output"]]

        ours, other = marked(tiny.prompt(1), two_regions()), tiny.prompt(3, tokens=154)
        (alone,), (alone_steered,) = rows(model, ours), rows(steered(model), ours)
        plain, got = (rows(each, [*ours, *other], 5.0) for each in (model, steered(model)))
        (at,) = [i for i, row in enumerate(plain) if (row - alone).abs().max() < 1e-5 * alone.abs().max()]
        assert len(plain) == len(got) == 3
        assert_alike(got[at], alone_steered)
        assert (alone_steered - alone).abs().max() > 0.01
        for i in {0, 1, 2} - {at}:
            assert_alike(got[i], plain[i], 1e-6)


@pytest.mark.parametrize("size", [(60, 33), (65, 130), (9, 8)], ids=str)
def test_any_size(model: Any, size: tuple[int, int]) -> None:
    prompt = marked(tiny.prompt(1), two_regions())
    got = tiny.sample(steered(model), tiny.noise(*size), 5.0, 2, prompt)
    plain = tiny.sample(model, tiny.noise(*size), 5.0, 2, prompt)
    assert torch.isfinite(got).all() and (got - plain).abs().max() > 1e-4


class TestConcat:
    """Regions' own prompts behind the caption's tokens."""

    def appended(self, **changes: Any) -> list:
        caption, blocks = tiny.prompt(1), [tiny.prompt(5)[0][0], tiny.prompt(6)[0][0]]
        whole = [[torch.cat([caption[0][0], *blocks], dim=1), caption[0][1]]]
        places = (tuple(range(77, 154)), tuple(range(154, 231)))
        return marked(whole, two_regions(), places, appended=77, **changes)

    @pytest.mark.parametrize("cfg", [1.0, 5.0])
    def test_appended_tokens_are_hidden_outside_of_the_window(self, model: Any, cfg: float) -> None:
        got = tiny.sample(steered(model), tiny.noise(), cfg, 3, self.appended(control=LATER))
        assert_alike(got, tiny.sample(model, tiny.noise(), cfg, 3, tiny.prompt(1)), 1e-4)
        seen = tiny.sample(model, tiny.noise(), cfg, 3, self.appended())
        assert (got - seen).abs().max() > 1e-2 * seen.abs().max()

    def test_they_act_inside_of_it(self, model: Any) -> None:
        got = tiny.sample(steered(model), tiny.noise(), 5.0, 3, self.appended())
        assert (got - tiny.sample(model, tiny.noise(), 5.0, 3, tiny.prompt(1))).abs().max() > 1e-2


class PicturePrompt:
    """Attention to more keys in place of ComfyUI's, as IPAdapter nodes have it: no transformer_options reach it."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.sizes: list[int] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        from comfy.ldm.modules.attention import optimized_attention

        self.sizes.append(q.shape[-1])
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        rows = [0.0 if i == 1 else 1.0 for i in extra_options["cond_or_uncond"]]
        weights = torch.tensor(rows).repeat_interleave(len(q) // len(rows))[:, None, None]
        extra = self.features[:, :, : q.shape[-1]].expand(len(q), -1, -1)
        return out + weights * optimized_attention(q, extra, extra, extra_options["n_heads"])


def test_a_picture_prompt_of_another_node_stays(model: Any) -> None:
    """Ours and theirs are both there, and theirs sees the tensors it knows."""
    features = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(9))
    with_picture, picture = model.clone(), PicturePrompt(features)
    for block in (("middle", 0), ("output", 4), ("input", 5)):
        with_picture.set_model_attn2_replace(picture, *block)
    prompt = marked(tiny.prompt(1), two_regions())
    results = {
        "plain": tiny.sample(model, tiny.noise(), 5.0, 1, prompt),
        "regions": tiny.sample(steered(model), tiny.noise(), 5.0, 1, prompt),
        "picture": tiny.sample(with_picture, tiny.noise(), 5.0, 1, prompt),
        "both": tiny.sample(steered(with_picture), tiny.noise(), 5.0, 1, prompt),
    }
    assert set(picture.sizes) == {32}
    for name in ("regions", "picture"):
        assert (results["both"] - results[name]).abs().max() > 1e-3
        assert (results[name] - results["plain"]).abs().max() > 1e-3
    later = marked(tiny.prompt(1), two_regions(), control=LATER)
    assert torch.equal(tiny.sample(steered(with_picture), tiny.noise(), 5.0, 1, later), results["picture"])


def test_steered_calls_beside_a_picture_prompt_are_not_quantized(model: Any) -> None:
    """As without one: what widens heads says so to kernels that would lose them."""
    patched, said = model.clone(), set()
    patched.set_model_attn2_replace(PicturePrompt(torch.randn(1, 4, 64)), "middle", 0)

    def kernel(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *rest: Any, **more: Any) -> Tensor:
        said.add((more.get("low_precision_attention", True), q.shape[-1] // heads))
        return func(q, k, v, heads, *rest, **more)

    options = patched.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = kernel
    tiny.sample(steered(patched), tiny.noise(), 5.0, 1, marked(tiny.prompt(1), two_regions()))
    usual = {width for low, width in said if low}
    assert said and not usual & {width for low, width in said if not low}
    assert any(not low for low, _ in said)


def perturbed(model: Any) -> Any:
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0).result[0]


@pytest.mark.parametrize("other", [guided, perturbed], ids=["SAG", "PAG"])
def test_order_of_nodes_does_not_matter(model: Any, other: Callable[[Any], Any]) -> None:
    prompt = marked(tiny.prompt(1), two_regions())

    def run(patched: Any) -> Tensor:
        return tiny.sample(patched, tiny.noise(), 5.0, 2, prompt)

    both = run(steered(other(model)))
    assert_alike(run(other(steered(model))), both)
    for single in (run(steered(model)), run(other(model))):
        assert (both - single).abs().max() > 1e-3 * single.abs().max()


def test_saliency_is_that_of_the_steered_attention(model: Any) -> None:
    """What Self-Attention Guidance reads is what the network does, not what it would do without regions."""
    found: dict[str, Tensor] = {}

    class Reading:
        def begin(self, run: Any) -> tuple:
            self.run = run
            return (SaliencyRecorder(frozenset({BlockId("middle", 0, 0)})),)

    for name, first in (("regions first", True), ("regions last", False)):
        patched, reading = model.clone(), Reading()
        for technique in (model_patch.STEERING, reading) if first else (reading, model_patch.STEERING):
            hooks.install(patched, technique)

        def keep(args: dict[str, Any], name: str = name, reading: Reading = reading) -> Tensor:
            (_, record), *_ = reading.run.records(BlockId("middle", 0, 0), args["cond"], 0)
            found[name] = record.values
            return args["denoised"]

        patched.set_model_sampler_post_cfg_function(keep)
        with tiny.watching(model) as calls:
            tiny.sample(patched, tiny.noise(), 1.0, 1, marked(tiny.prompt(1), two_regions()))
    assert torch.equal(*found.values())
    q, k = (calls[0][name].unflatten(-1, (4, -1)).transpose(1, 2).double() for name in "qk")
    plain = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).mean(1).sum(1)
    assert (found["regions first"] - plain).abs().max() > 0.05
    assert found["regions first"].mean() == pytest.approx(1, abs=1e-4)


def test_another_override_is_kept(model: Any) -> None:
    seen: list[int] = []

    def override(func: Callable, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(args[0].shape[0])
        return func(*args, **kwargs)

    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = override
    prompt = marked(tiny.prompt(1), two_regions())
    got = tiny.sample(steered(other), tiny.noise(), 5.0, 2, prompt)
    assert_alike(got, tiny.sample(steered(model), tiny.noise(), 5.0, 2, prompt))
    assert set(seen) == {2}, "it gets the whole batch that it knows from transformer_options"


@pytest.mark.parametrize("backend", techniques.OTHERS)
def test_every_backend_serves(model: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = marked(tiny.prompt(1), two_regions())
    wanted = tiny.sample(steered(model), tiny.noise(), 5.0, 2, prompt)
    monkeypatch.setattr(attention, "optimized_attention", getattr(attention, backend))
    got = tiny.sample(steered(model), tiny.noise(), 5.0, 2, prompt)
    assert_alike(got, wanted)


@pytest.mark.parametrize("name", sorted(dit.KINDS))
def test_transformers(name: str) -> None:
    """Regions change what they should and only that; nothing breaks at an unaligned size, with two pictures."""
    model = dit.build(name)
    start = dit.noise(name, 18, 22, batch=2)
    control = RegionControl(RegionBias(temperature=0.0, background=False), 1.0, 0.3, 0.0, 0.6)
    positive = dit.prompt(1)
    settings = {"positive": positive, "negative": dit.prompt(2)}
    plain = dit.sample(model, start, **settings)
    prompts = {
        name: marked(positive, two_regions(), control=each) for name, each in (("now", control), ("later", LATER))
    }
    got = dit.sample(steered(model), start, **{**settings, "positive": prompts["now"]})
    assert torch.isfinite(got).all() and (got - plain).abs().max() > 1e-4
    untouched = dit.sample(steered(model), start, **{**settings, "positive": prompts["later"]})
    assert torch.equal(untouched, plain)


class Looks:
    """How much every place looks at each word of regions in the first attention call with words, once all others have
    changed it: [words, height, width]. Values of 1 at a word and 0 elsewhere read it out."""

    blocks, kinds, reads = None, frozenset({"cross", "joint"}), False

    def __init__(self) -> None:
        self.found: Tensor | None = None

    def wants(self, run: Any, rows: Any, degraded: Any) -> bool:
        return True

    def attend(self, call: Any, attention: Any) -> Tensor:
        if self.found is None:
            site, v = call.site, torch.zeros_like(call.v)
            first = site.text_start + site.text.of(site.text_tokens, dit.TEXT)[0]
            by_token = v.movedim(-2 if call.heads_first else 1, 0)
            words = [word for place in PLACES for word in place]
            for channel, word in enumerate(words):
                by_token[first + word, ..., channel] = 1  # of the first head
            self.found = attention(call.q, call.k, v)[0, site.image, : len(words)].T.unflatten(1, site.grid[-2:])
        return attention(call.q, call.k, call.v)

    def begin(self, run: Any) -> tuple:
        return (self,)


@pytest.mark.parametrize("name", sorted(dit.KINDS))
def test_places_of_transformers_look_at_their_own_words(name: str) -> None:
    """In the first block, whose queries and keys nobody has steered yet: each half of the picture at its own, and no
    more than before at the other's."""
    left = torch.zeros(1, 32, 48)
    left[..., :24] = 1
    control = RegionControl(RegionBias(temperature=0.0, area_weight=0.0, background=False), 1.0, 0.0, 0.0, 0.9)
    prompt = marked(dit.prompt(1), two_regions((left, 1 - left)), control=control)
    model, shares = dit.build(name), []
    for steer in (False, True):
        patched, looks = model.clone(), Looks()
        hooks.install(patched, looks)  # the first is the outermost
        dit.sample(steered(patched) if steer else patched, dit.noise(name, 32, 48), positive=prompt, steps=1, cfg=1.0)
        assert looks.found is not None
        shares.append(looks.found)
    more, (height, width) = shares[1] - shares[0], shares[0].shape[1:]
    assert width == 1.5 * height and width % 2 == 0
    halves = more[..., : width // 2], more[..., width // 2 :]
    for region, words in enumerate((slice(0, len(PLACES[0])), slice(len(PLACES[0]), None))):
        own, other = halves[region][words], halves[1 - region][words]
        assert own.min() > 0 and own.sum(0).mean() > 0.05 and other.max() < 1e-6


@pytest.mark.parametrize("name", ["flux", "lumina", "qwen"])
def test_text_and_image_keys_have_moments_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One softmax over both, but a row's spread is that of the part that is steered, without padding."""
    model, found = dit.build(name), []
    real = score_bias.row_std

    def spy(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
        spread = real(q, k, scale, bias)
        scores = (q @ k.mT * scale if bias is None else q @ k.mT * scale + bias).double()
        seen = scores > float("-inf")
        mean = scores.masked_fill(~seen, 0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        wanted = ((scores - mean).masked_fill(~seen, 0).square().sum(-1) / seen.sum(-1)).sqrt()
        torch.testing.assert_close(spread.double(), wanted, rtol=1e-4, atol=1e-5)
        found.append((q.shape[2], k.shape[2]))
        return spread

    monkeypatch.setattr(score_bias, "row_std", spy)
    control = RegionControl(RegionBias("row std", 0.0, 0.0, False), 5.0, 1.5, 0.0, 0.6)
    prompt = marked(dit.prompt(1), two_regions(), control=control)
    start = dit.noise(name, 18, 22)
    got = dit.sample(steered(model), start, positive=prompt, negative=dit.prompt(2))
    assert (got - dit.sample(model, start, positive=dit.prompt(1), negative=dit.prompt(2))).abs().max() > 1e-4
    image = {queries for queries, _ in found}
    text = {keys for _, keys in found} - image
    assert len(image) == 1 and len(text) == 1 and image <= {keys for _, keys in found}


class TestLaws:
    def test_left_of_schedule_is_the_timestep(self, model: Any) -> None:
        sampling = model.get_model_object("model_sampling")
        for percent in (0.0, 0.1, 0.3, 0.77):
            assert left_of_schedule(sampling, sampling.percent_to_sigma(percent or 1e-9)) == pytest.approx(
                1 - percent, abs=2e-3
            )
        sigma = sampling.sigma(torch.tensor(700.0))
        assert left_of_schedule(sampling, float(sigma)) == pytest.approx(0.7, abs=2e-3)

    def test_noise_to_signal(self, model: Any) -> None:
        assert noise_to_signal(model.get_model_object("model_sampling"), 3.3) == pytest.approx(3.3)
        flow = dit.build(sorted(dit.KINDS)[0]).get_model_object("model_sampling")
        assert noise_to_signal(flow, 0.75) == pytest.approx(3.0)
        assert noise_to_signal(flow, 1.0) < 15


class TestNodes:
    @pytest.mark.parametrize("node, settings", [(FoveaDenseDiffusion, DENSE), (FoveaPaintWithWords, PAINT)])
    def test_neutral_settings_change_nothing(self, shapesworld: dict, node: Any, settings: dict) -> None:
        plain = shapesworld["clip"].encode_from_tokens_scheduled(shapesworld["clip"].tokenize(CAPTION))
        off = {k: 0.0 for k in settings if k in ("cross_strength", "self_strength", "strength")}
        for regions, changes in ((two_regions(), off), (Regions(), {}), (two_regions(), {"end_percent": 0.0})):
            result = techniques.outputs(node, regions=regions, prompt=CAPTION, **shapesworld, **{**settings, **changes})
            assert result[0] is shapesworld["model"]
            assert torch.equal(result[1][0][0], plain[0][0]) and set(result[1][0][1]) == set(plain[0][1])

    def test_inputs_are_not_changed(self, shapesworld: dict) -> None:
        before = dict(shapesworld["model"].model_options["transformer_options"])
        techniques.outputs(FoveaDenseDiffusion, regions=two_regions(), prompt=CAPTION, **shapesworld, **DENSE)
        assert shapesworld["model"].model_options["transformer_options"] == before

    def test_phrases_are_found_and_encoded_alone(self, shapesworld: dict) -> None:
        clip = shapesworld["clip"]
        alone = prompt_encoding.positive(clip, CAPTION, two_regions(), "prompt", True, PAPER).conditioning[0]
        whole = prompt_encoding.positive(clip, CAPTION, two_regions(), "prompt", False, PAPER).conditioning[0]
        star = prompt_encoding.encode(clip, "a plain red star")[0][0]
        assert alone[1][MARK].tokens == ((1, 2, 3, 4), (6, 7, 8, 9))
        assert torch.equal(alone[0][:, 1:5], star[:, 1:5])
        assert torch.equal(whole[0], prompt_encoding.encode(clip, CAPTION)[0][0])

    def test_weights_of_the_caption_stay(self, shapesworld: dict) -> None:
        clip = shapesworld["clip"]
        weighted = "(a plain red star:1.5) and a plain blue circle"
        got = prompt_encoding.positive(clip, weighted, two_regions(), "prompt", True, PAPER).conditioning[0]
        alone = prompt_encoding.encode(clip, "(a plain red star:1.5)")[0][0]
        assert got[1][MARK].tokens[0] == (1, 2, 3, 4)
        torch.testing.assert_close(got[0][:, 1:5], alone[:, 1:5])
        assert not torch.allclose(got[0][:, 1:5], prompt_encoding.encode(clip, "a plain red star")[0][0][:, 1:5])

    def test_long_prompts(self, shapesworld: dict) -> None:
        caption = "a white background, " * 20 + "a plain red star, a plain blue circle"
        found = prompt_encoding.positive(
            shapesworld["clip"], caption, two_regions(), "prompt", True, PAPER
        ).conditioning[0]
        assert found[0].shape[1] == 154 and min(found[1][MARK].tokens[0]) > 77

    def test_a_missing_phrase_says_what_to_do(self, shapesworld: dict) -> None:
        with pytest.raises(ValueError, match=r"Dense Diffusion.*'a plain .*concat"):
            techniques.outputs(
                FoveaDenseDiffusion, regions=two_regions(), prompt="a green star", **shapesworld, **DENSE, mode="prompt"
            )
        given = {"regions": two_regions(), "prompt": "a green star", **shapesworld}
        result = techniques.outputs(FoveaDenseDiffusion, **given, **DENSE)
        assert result[3] and result[1][0][0].shape[1] == 3 * 77 and result[1][0][1][MARK].appended == 77

    def test_a_negative_phrase_marks_the_negative_prompt(self, shapesworld: dict) -> None:
        regions = two_regions(negative_prompt="striped")
        _, positive, negative, _ = FoveaPaintWithWords.execute(
            regions=regions, prompt=CAPTION, **shapesworld, **PAINT
        ).result  # fmt: skip
        assert negative[0][1][MARK].negative and not positive[0][1][MARK].negative
        assert negative[0][1][MARK].tokens == (tuple(range(77, 154)), ())

    def test_an_empty_caption_is_made_of_the_phrases(self, shapesworld: dict) -> None:
        positive = FoveaPaintWithWords.execute(regions=two_regions(), prompt=" ", **shapesworld, **PAINT).result[1]
        assert positive[0][1][MARK].tokens == ((1, 2, 3, 4), (6, 7, 8, 9))

    def test_a_region_that_is_left_out_is_not_asked_for(self, shapesworld: dict) -> None:
        both = two_regions()
        regions = Regions((both.items[0], replace(both.items[1], strength=0.0)))
        report = [FoveaPaintWithWords.execute(regions=given, prompt="", **shapesworld, **PAINT).result for given in (
            regions, Regions(both.items[:1]))]  # fmt: skip
        assert "it is left out" in report[0][3] and torch.equal(*(found[1][0][0] for found in report))

    def test_unsupported_model(self, shapesworld: dict) -> None:
        with pytest.raises(ValueError, match=r"PixArt.*Regions to Conditioning"):
            FoveaPaintWithWords.execute(
                model=tiny.pixart(), clip=shapesworld["clip"], regions=two_regions(), prompt=CAPTION, **PAINT
            )

    def test_unknown_block(self, shapesworld: dict) -> None:
        with pytest.raises(ValueError, match=r"Unknown block 'outer'.*middle"):
            FoveaPaintWithWords.execute(
                regions=two_regions(), prompt=CAPTION, **shapesworld, **{**PAINT, "blocks": "outer"}
            )

    def test_pictures_change(self, shapesworld: dict) -> None:
        model, positive, negative, report = FoveaPaintWithWords.execute(
            regions=two_regions(), prompt=CAPTION, **shapesworld, **PAINT
        ).result  # fmt: skip
        start = tiny.noise(32, 32)
        got = tiny.sample(model, start, 4.0, 4, positive, negative)
        plain = tiny.sample(shapesworld["model"], start, 4.0, 4, positive, negative)
        assert report == "" and torch.isfinite(got).all() and (got - plain).abs().max() > 0.05

    def test_way_back_to_masks_of_the_host(self, shapesworld: dict) -> None:
        conditioning = FoveaRegionsToConditioning.execute(shapesworld["clip"], two_regions(), CAPTION, 0.5).result[0]
        assert [c[1].get("mask") is not None for c in conditioning] == [True, True, False]
        got = tiny.sample(shapesworld["model"], tiny.noise(32, 32), 4.0, 2, conditioning, prompt_encoding.encode(
            shapesworld["clip"], ""))  # fmt: skip
        assert torch.isfinite(got).all()


def test_two_regions_with_one_prompt_and_no_caption(shapesworld: dict) -> None:
    """The caption that the node writes mentions both: each has tokens of its own, and there is nothing to warn of."""
    left, right = boxes()
    twins = Regions((Region(left, "a red star"), Region(right, "a red star")))
    prompt = prompt_encoding.positive(shapesworld["clip"], "", twins, "auto", False, PAPER)
    first, second = prompt.conditioning[0][1][MARK].tokens
    assert first and second and not {*first} & {*second} and not prompt.notes
    assert prompt_encoding.compose(["a dog", " ", "a dog", "a cat"]) == "a dog, a dog and a cat"


@pytest.mark.parametrize("another", [False, True], ids=["alone", "beside another node's attention"])
def test_appended_tokens_are_left_out_where_nothing_is_steered(
    model: Any, another: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of the window: bit for bit the prompt without them, whose attention is nobody's business."""
    long = tiny.prompt(1, tokens=97)
    short = [[long[0][0][:, :77], long[0][1]]]
    prompt = marked(long, two_regions(), ((77, 78, 79), (80, 81)), LATER, appended=77)
    patched, widened = steered(model), []
    augment = augmented_attention.augment
    monkeypatch.setattr(augmented_attention, "augment", lambda *given: widened.append(1) or augment(*given))
    if another:
        options = patched.model_options["transformer_options"]
        options["optimized_attention_override"] = lambda func, *given, **more: func(*given, **more)
    got = tiny.sample(patched, tiny.noise(), 1.0, 2, prompt)
    assert not widened and torch.equal(got, tiny.sample(model, tiny.noise(), 1.0, 2, short))
    seen = tiny.sample(model, tiny.noise(), 1.0, 2, long)
    assert (got - seen).abs().max() > 0.01 * seen.abs().max(), "twin: they would be seen"
