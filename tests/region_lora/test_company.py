"""Region LoRA with all else: batches, frames, parts of a picture, prompts with regions, other LoRAs, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.sd
import lora_files as files
import pytest
import techniques
import tiny_models as tiny
import tiny_transformers as transformers
import torch
from comfy.patcher_extension import WrappersMP
from region_steps import marked, steered, two_regions
from torch import Tensor

from fovea.attention import hooks
from fovea.guidance.gradients.autograd import outside_inference_mode, saved_tensor_guard
from fovea.guidance.region_lora import model_patch
from fovea.guidance.regions.masks import Lora, Region, Regions
from fovea.guidance.regions.prompt_encoding import encode
from fovea.guidance.regions.prompt_regions import MARK
from fovea.nodes.masked_prompts import FoveaRegionsToConditioning
from fovea.nodes.region_lora import FoveaAddRegionLora, FoveaRegionLora
from fovea.nodes.regions import FoveaDenseDiffusion
from fovea.nodes.sag import FoveaSelfAttentionGuidance


def patched(model: Any, regions: Regions, **settings: Any) -> Any:
    clone = model.clone()
    model_patch.install(clone, regions, **{"apart": 0.0, **settings})
    return clone


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def loaded(model: Any, file: dict[str, Tensor], strength: float = 1.0) -> Any:
    return comfy.sd.load_lora_for_models(model, None, file, strength, 0.0)[0]


def file_change(file: dict[str, Tensor], name: str) -> Tensor:
    return file[f"diffusion_model.{name}.lora_up.weight"] @ file[f"diffusion_model.{name}.lora_down.weight"]


class Later:
    """Keeps what a layer is given and what its consumer gets of it: its own forward hook comes after all others."""

    def __init__(self, layer: torch.nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
        self.layer, self.seen, self.handles = layer, seen, []

    def _before(self, _module: Any, args: tuple[Tensor, ...]) -> None:
        self.x = args[0].clone()
        self.handles.append(self.layer.register_forward_hook(self._after))  # behind those that are there by now

    def _after(self, _module: Any, _args: Any, y: Tensor) -> None:
        self.seen.append((self.x, y.clone()))

    def __enter__(self) -> None:
        self.handles.append(self.layer.register_forward_pre_hook(self._before))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def hooks_on(model: Any) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.model.modules())


class TestBatches:
    def test_masks_per_picture(self) -> None:
        """A mask per picture: each is what it would be by itself."""
        model = tiny.unet("sd15")
        file, masks = files.weights(model, 1), torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
        both = tiny.sample(patched(model, Regions((files.region(masks, file),))), tiny.noise(32, 32, batch=2))
        start = tiny.noise(32, 32, batch=2)
        assert far(both[:1], tiny.sample(model, start[:1])) < 1e-5
        assert far(both[1:], tiny.sample(loaded(model, file), start[1:])) < 1e-5

    def test_without_the_negative_prompt(self) -> None:
        """Off: the negative prompt's evaluation is the plain model's."""
        model = tiny.unet("sd15")
        file, start = files.weights(model, 1), tiny.noise(32, 32)
        region = patched(model, files.everywhere(file), negative=False)
        with tiny.watching(region, "") as calls:
            tiny.sample(region, start, steps=1)
        found = dict(zip(calls[0]["chunks"], calls[0]["output"].chunk(2)))
        for chunk, wanted in ((0, loaded(model, file)), (1, model)):
            with tiny.watching(wanted, "") as alone:
                tiny.sample(wanted, start, steps=1, positive=tiny.prompt(chunk + 1), cfg=1.0)
            assert far(found[chunk], alone[0]["output"]) < 1e-5

    @pytest.mark.parametrize("kind", ["wan", "qwen", "krea2"])
    def test_without_the_negative_prompt_where_a_picture_has_several_times(self, kind: str) -> None:
        """A video of which some frames are given (Wan 2.2 TI2V): one for each frame. A reference picture that is said
        to have no noise: one more, behind those of all pictures."""
        model = transformers.build(kind)
        file, start, more = files.weights(model, 1), transformers.noise(kind), {}
        if kind != "wan":
            more = {"reference_latents": [start[:1, :, ..., :4, :4]], "reference_latents_method": "index_timestep_zero"}

        def times(run: Any, x: Tensor, t: Tensor, *rest: Any, **named: Any) -> Tensor:
            return run(x, t[:, None].expand(-1, x.shape[2]) if kind == "wan" else t, *rest, **named)

        def outputs(each: Any, cfg: float, positive: int) -> dict[int, Tensor]:
            each = each.clone()
            each.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", times)
            conds = {"positive": transformers.prompt(positive, **more), "negative": transformers.prompt(2, **more)}
            with tiny.watching(each, "") as calls:
                transformers.sample(each, start, steps=1, cfg=cfg, **conds)
            return dict(zip(calls[0]["chunks"], calls[0]["output"].chunk(len(calls[0]["chunks"]))))

        found = outputs(patched(model, files.everywhere(file), negative=False), 4.0, 1)
        assert len(found) == 2, "in one batch"
        assert far(found[0], outputs(loaded(model, file), 1.0, 1)[0]) < 1e-5
        assert far(found[1], outputs(model, 1.0, 2)[0]) < 1e-5

    def test_video_frames(self) -> None:
        """A mask per frame; half of them each."""
        model = transformers.build("wan")
        file, masks = files.weights(model, 1, lambda name: name.endswith("head.head")), torch.zeros(2, 8, 12)
        masks[1] = 1
        start = transformers.noise("wan", frames=4)
        found = transformers.sample(patched(model, Regions((files.region(masks, file),))), start, steps=1)
        plain, full = (transformers.sample(each, start, steps=1) for each in (model, loaded(model, file)))
        assert far(found[:, :, :2], plain[:, :, :2]) < 1e-5 and far(found[:, :, 2:], full[:, :, 2:]) < 1e-5


    def test_what_has_no_place_takes_the_mean_over_a_videos_frames(self) -> None:
        """A region that is there in half of the frames, first or last: the values of words change by half."""
        model = transformers.build("wan")
        name = "blocks.0.cross_attn.v"
        file = files.weights(model, 1, lambda each: each == name)
        layer = model.model.diffusion_model.get_submodule(name)
        start, shares = transformers.noise("wan", frames=4), []
        for at in (0, 1):
            masks = torch.zeros(2, 8, 12)
            masks[at] = 1
            seen: list[tuple[Tensor, Tensor]] = []
            for each in (model, patched(model, Regions((files.region(masks, file),)))):
                with Later(layer, seen):
                    transformers.sample(each, start, steps=1, cfg=1.0)
            (x, plain), (_, changed) = seen
            full = x @ file_change(file, name).T
            shares.append(float((changed - plain).flatten() @ full.flatten() / full.square().sum()))
        assert shares == pytest.approx([0.5, 0.5], abs=1e-4)

    def test_reference_frames_have_no_place(self) -> None:
        """Phantom's, which come as further frames: masks are those of the video's own, and a full one is the loader's.
        """
        model, start = transformers.build("wan"), transformers.noise("wan", frames=4)
        positive = transformers.prompt(1, time_dim_concat=torch.randn(1, 16, 2, 16, 24))
        file = files.weights(model, 1)
        full, wanted = (transformers.sample(each, start, steps=1, positive=positive, cfg=1.0)
                        for each in (patched(model, files.everywhere(file)), loaded(model, file)))  # fmt: skip
        assert far(full, wanted) < 1e-5
        masks = torch.zeros(2, 8, 12)
        masks[1] = 1
        for name in ("head.head", "patch_embedding"):
            file = files.weights(model, 1, lambda each, name=name: each.endswith(name))
            layer = model.model.diffusion_model.get_submodule(name)
            outputs = []
            for each in (patched(model, Regions((files.region(masks, file),))), model, loaded(model, file)):
                seen: list[tuple[Tensor, Tensor]] = []
                with Later(layer, seen):
                    transformers.sample(each, start, steps=1, positive=positive, cfg=1.0)
                values = seen[0][1]
                outputs.append(values if values.ndim == 5 else values.unflatten(1, (6, -1)).transpose(1, 2))
            found, plain, full = outputs  # [1, channels, 4 frames and 2 of references, ...]
            assert far(found[:, :, :2], plain[:, :, :2]) < 1e-5 and far(found[:, :, 2:4], full[:, :, 2:4]) < 1e-5
            assert far(found[:, :, 4:], (plain + full)[:, :, 4:] / 2) < 1e-5


class TestParts:
    def test_a_tile_that_nothing_tells_of_is_left_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        """A node that cuts the picture in two inside of a run: masks cannot be fitted, and it is said."""
        model = tiny.unet("sd15")

        def halves(apply: Any, args: dict[str, Any]) -> Tensor:
            parts = (apply(args["input"][..., at : at + 16], args["timestep"], **args["c"]) for at in (0, 16))
            return torch.cat(list(parts), dim=-1)

        model.set_model_unet_function_wrapper(halves)
        left = torch.zeros(1, 8, 8)
        left[..., :4] = 1
        region = patched(model, Regions((files.region(left, files.weights(model, 1)),)))
        plain = tiny.sample(model, tiny.noise(32, 32), steps=1)
        assert torch.equal(tiny.sample(region, tiny.noise(32, 32), steps=1), plain)
        assert "Regions do nothing here" in caplog.text

    def test_context_windows_over_pictures(self) -> None:
        model = tiny.unet("sd15")
        file, start = files.weights(model, 1), tiny.noise(16, 16, batch=6)
        masks = torch.stack([torch.full((8, 8), float(n > 2)) for n in range(6)])
        windowed = tiny.windowed(model)
        found = tiny.sample(patched(windowed, Regions((files.region(masks, file),))), start, steps=1)
        wanted = torch.cat([tiny.sample(windowed, start, steps=1)[:3],
                            tiny.sample(tiny.windowed(loaded(model, file)), start, steps=1)[3:]])  # fmt: skip
        assert far(found, wanted) < 1e-5

    def test_a_prompt_with_an_area_sees_the_masks_part(self) -> None:
        """The right half by itself: where it has no region it is the plain model's."""
        model = tiny.unet("sd15")
        file, start = files.weights(model, 1, lambda name: name == "out.2"), tiny.noise(32, 32)
        left = torch.zeros(1, 8, 8)
        left[..., :4] = 1
        parts = [[t, {**o, "area": (32, 16, 0, 16 * n)}] for n in range(2) for t, o in tiny.prompt(1)]
        region = patched(model, Regions((files.region(left, file),)))
        found, plain, full = (tiny.sample(each, start, steps=1, positive=parts, cfg=1.0)
                              for each in (region, model, loaded(model, file)))  # fmt: skip
        assert far(found[..., 16:], plain[..., 16:]) < 1e-5 and far(found[..., :16], full[..., :16]) < 1e-5

    def test_windows_of_the_schedule(self) -> None:
        """A region's own, and the node's: outside of them the run is the plain one, bit for bit."""
        model = tiny.unet("sd15")
        file, start = files.weights(model, 1), tiny.noise(32, 32)
        late = Regions((files.region(torch.ones(1, 8, 8), file, start=0.9),))
        for region in (patched(model, late), patched(model, files.everywhere(file), start=0.9)):
            assert torch.equal(tiny.sample(region, start, steps=1), tiny.sample(model, start, steps=1))
        early = patched(model, files.everywhere(file), end=0.4)
        three = tiny.sample(early, start, steps=3)
        assert not torch.equal(three, tiny.sample(model, start, steps=3))
        assert not torch.equal(three, tiny.sample(loaded(model, file), start, steps=3))

    def test_overlaps_are_shared(self) -> None:
        """Two regions over the whole picture, shared: the sum of both LoRAs at half strength."""
        model = tiny.unet("sd15")
        one, two = files.weights(model, 1), files.weights(model, 2)
        both = Regions(tuple(files.region(torch.ones(1, 8, 8), file) for file in (one, two)), "share")
        wanted = tiny.sample(loaded(loaded(model, one, 0.5), two, 0.5), tiny.noise(32, 32))
        assert far(tiny.sample(patched(model, both), tiny.noise(32, 32)), wanted) < 1e-5
        top = tiny.sample(patched(model, Regions(both.items)), tiny.noise(32, 32))
        assert far(top, tiny.sample(loaded(model, two), tiny.noise(32, 32))) < 1e-5, "the last one lies on top"


class TestApart:
    """Places look at their own region."""

    def test_nothing_crosses_where_it_is_strong(self) -> None:
        """A change of the right half's values alone does not reach the left half's attention; without it, it does."""
        model = tiny.unet("sd15")
        file = files.weights(model, 1, lambda name: name == f"{tiny.MIDDLE}.attn1.to_v")
        left, start = files.halves({}, {}).items[0].mask, tiny.noise()
        regions = Regions((Region(left), files.region(1 - left, file)))
        outputs = {}
        for apart in (0.0, 4.0):
            for strength in (1e-12, 1.0):  # 0 would turn all off, what keeps places apart too
                items = (regions.items[0], replace(regions.items[1], loras=(Lora("x", file, strength, 0.0),)))
                clone, seen = patched(model, Regions(items), apart=apart), []
                layer = model.model.diffusion_model.get_submodule(f"{tiny.MIDDLE}.attn1.to_out.0")
                handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
                tiny.sample(clone, start, steps=1, cfg=1.0)
                handle.remove()
                outputs[apart, strength] = seen[0].unflatten(1, (8, 8))
        for apart, reaches in ((0.0, True), (4.0, False)):
            change = (outputs[apart, 1.0] - outputs[apart, 1e-12]).abs().amax(dim=(0, 1, 3))
            assert change[4:].min() > 1e-3, "twin: the right half changes"
            assert bool(change[:4].max() > 1e-4) == reaches

    def test_beside_dense_diffusion_in_either_order(self) -> None:
        """Installed first or last, the same: neither counts in what the other has done to the scores."""
        model = tiny.unet("sd15")
        regions, start = files.halves(files.weights(model, 1), files.weights(model, 2)), tiny.noise()
        prompt = marked(tiny.prompt(1), two_regions())
        first, last, without, alone = (
            tiny.sample(each, start, steps=1, cfg=1.0, positive=prompt)
            for each in (steered(patched(model, regions, apart=1.0)), patched(steered(model), regions, apart=1.0),
                         steered(patched(model, regions)), patched(model, regions, apart=1.0))
        )  # fmt: skip
        assert far(first, last) < 1e-4 < 0.01 < min(far(without, last), far(alone, last))

    def test_one_region_over_everything_costs_nothing(self) -> None:
        model = tiny.unet("sd15")
        alone = files.everywhere(files.weights(model, 1))
        both = (tiny.sample(patched(model, alone, apart=apart), tiny.noise(16, 16), steps=1) for apart in (0.0, 1.0))
        assert torch.equal(*both)


class TestWithOthers:
    def test_beside_the_loaders_lora_and_a_bypassed_one(self) -> None:
        """All three add up, whatever comes first."""
        model = tiny.unet("sd15")
        one, two, three = (files.weights(model, seed) for seed in (1, 2, 3))
        wanted = tiny.sample(loaded(loaded(loaded(model, one), two), three), tiny.noise(32, 32))
        bypassed = comfy.sd.load_bypass_lora_for_models(loaded(model, two), None, three, 1.0, 0.0)[0]
        assert far(tiny.sample(patched(bypassed, files.everywhere(one)), tiny.noise(32, 32)), wanted) < 1e-5
        region = patched(model, files.everywhere(one))
        bypassed = comfy.sd.load_bypass_lora_for_models(loaded(region, two), None, three, 1.0, 0.0)[0]
        assert far(tiny.sample(bypassed, tiny.noise(32, 32)), wanted) < 1e-5

    def test_half_precision(self) -> None:
        """A LoRA beside weights of bfloat16 is the merged one, which rounds them, but for that rounding."""
        model = tiny.unet("sd15", dtype=torch.bfloat16)
        model.model.diffusion_model.to(torch.bfloat16)
        file = files.weights(model, 1)
        three = (loaded(model, file), patched(model, files.everywhere(file)), model)
        merged, found, plain = (tiny.sample(each, tiny.noise(32, 32), steps=1) for each in three)
        assert far(found, merged) < 0.1 < 0.4 < far(plain, merged)

    def test_sag_degrades_the_model_with_its_loras(self) -> None:
        """With a full mask SAG gives what it gives on the merged model."""
        model = tiny.unet("sd15")
        file = files.weights(model, 1)

        def guided(patcher: Any) -> Any:
            return techniques.outputs(FoveaSelfAttentionGuidance, model=patcher)[0]

        wanted = tiny.sample(guided(loaded(model, file)), tiny.noise())
        for both in (patched(guided(model), files.everywhere(file)), guided(patched(model, files.everywhere(file)))):
            assert far(tiny.sample(both, tiny.noise()), wanted) < 1e-4

    def test_dense_diffusion_lets_them_act_and_a_node_of_its_own_has_the_say(self) -> None:
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        file = files.weights(model, 1)
        left, right = techniques.halves().items
        regions = Regions((files.region(left.mask, file, prompt=left.prompt), right))
        given = {"clip": world.clip, "regions": regions, "prompt": techniques.PROMPT}
        lora = {"regions": regions, "rest_strength": 0.0}
        (node, *_), (own, *_) = (techniques.outputs(FoveaDenseDiffusion, model=each, **given) for each in (
            model, techniques.outputs(FoveaRegionLora, model=model, **lora)[0]))  # fmt: skip
        after = techniques.outputs(FoveaRegionLora, model=node, **lora)[0]
        loras = [[each for each in hooks.techniques_of(m) if isinstance(each, model_patch.RegionLora)]
                 for m in (node, own, after)]  # fmt: skip
        assert [[each.common for each in found] for found in loras] == [[1.0], [0.0], [0.0]]

    def test_a_later_lora_and_a_crop_replace_what_acts(self) -> None:
        """Whatever is changed about regions, each of their LoRAs acts once, with the settings that were chosen."""
        model = tiny.unet("sd15")
        one, two = (Lora(f"{seed}.safetensors", files.weights(model, seed), 1.0, 0.0) for seed in (1, 2))
        left, right = techniques.halves().items
        first = Regions((replace(left, loras=(one,)), right))
        added = Regions((first.items[0], replace(right, loras=(two,))))
        more = Regions(tuple(replace(each, loras=(*each.loras, two)) for each in first.items))
        clone = model.clone()
        model_patch.install(clone, first, common=0.5)
        for changed in (added, more, added.cropped((0, 0, 64, 64), (128, 128))):
            again = clone.clone()
            assert model_patch.ensure(again, changed) == []
            (acts,) = (each for each in hooks.techniques_of(again) if isinstance(each, model_patch.RegionLora))
            assert acts.regions is changed and acts.common == 0.5
        assert model_patch.ensure(clone, first) == []
        assert [each.regions for each in hooks.techniques_of(clone)] == [first]

    def test_two_nodes_that_share_a_region_act_both(self) -> None:
        """Each gives a LoRA to another one of three regions. The third, which neither changes, does not make them one.
        """
        model = tiny.unet("sd15")
        one, two = (Lora(f"{seed}.safetensors", files.weights(model, seed), 1.0, 0.0) for seed in (1, 2))
        first, second, third = (Region(torch.ones(1, 8, 8), name) for name in "abc")
        ours = Regions((replace(first, loras=(one,)), second, third))
        others = Regions((first, replace(second, loras=(two,)), third))
        both = patched(patched(model, ours), others)
        assert [each.regions for each in hooks.techniques_of(both)] == [ours, others]

    def test_an_empty_window_turns_them_off_for_dense_diffusion_too(self) -> None:
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        left, right = techniques.halves().items
        plain = Regions((left, right))
        regions = Regions((files.region(left.mask, files.weights(model, 1), prompt=left.prompt), right))
        window = {"start_percent": 0.8, "end_percent": 0.3}
        off, report = techniques.outputs(FoveaRegionLora, model=model, regions=regions, **window)
        assert report == "start_percent (0.8) is not below end_percent (0.3): the LoRAs do not act on the model."
        found = []
        for each, given in ((off, regions), (model, plain), (model, regions)):
            steered, positive, negative, _ = techniques.outputs(
                FoveaDenseDiffusion, model=each, clip=world.clip, regions=given, prompt=techniques.PROMPT
            )
            with torch.inference_mode():
                found.append(tiny.sample(steered, world.start, steps=1, positive=positive, negative=negative))
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[1], found[2]), "twin: by itself Dense Diffusion lets them act"

    def test_words_of_a_region_that_does_not_act_now_are_nobodys(self) -> None:
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        name = next(n for n in files.layers(model.model.diffusion_model) if n.endswith("attn2.to_v"))
        file = files.weights(model, 1, lambda each: each == name)
        left, right = techniques.halves().items
        elsewhere = files.weights(model, 2, lambda each: each.startswith("out.2"))
        layer = model.model.diffusion_model.get_submodule(name)
        seen: list[tuple[Tensor, Tensor]] = []
        right = files.region(right.mask, elsewhere, prompt=right.prompt)
        for first in (replace(left, start=0.9), files.region(left.mask, file, prompt=left.prompt, start=0.9)):
            given = {"model": model, "clip": world.clip, "regions": Regions((first, right))}
            steered, positive, negative, _ = techniques.outputs(FoveaDenseDiffusion, **given, prompt=techniques.PROMPT)
            with torch.inference_mode(), Later(layer, seen):
                tiny.sample(steered, world.start, cfg=1.0, steps=1, positive=positive, negative=negative)
        (_, plain), (_, changed) = seen
        assert torch.equal(plain, changed)

    @pytest.mark.parametrize("given_its_lora", ["before its prompt is made", "after it"])
    def test_words_of_a_region_have_its_lora_and_no_other(self, given_its_lora: str) -> None:
        """Only the values of words are changed: fully where they are the left region's, not at all where they are the
        right one's, by half where they are nobody's."""
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        name = next(n for n in files.layers(model.model.diffusion_model) if n.endswith("attn2.to_v"))
        file = files.weights(model, 1, lambda each: each == name)
        left, right = techniques.halves().items
        layer = model.model.diffusion_model.get_submodule(name)
        seen: list[tuple[Tensor, Tensor]] = []
        positive, changes, plain_regions = [], [], Regions((left, right))
        regions = Regions((replace(left, loras=(Lora("test.safetensors", file, 1.0, 0.0),)), right))
        for acting in (plain_regions, regions):
            prompted = plain_regions if given_its_lora == "after it" else acting
            given = {"model": model, "clip": world.clip, "regions": prompted}
            steered, positive, negative, _ = techniques.outputs(FoveaDenseDiffusion, **given, prompt=techniques.PROMPT)
            if prompted is not acting:
                steered, _ = techniques.outputs(FoveaRegionLora, model=steered, regions=acting)
            with torch.inference_mode(), Later(layer, seen):
                tiny.sample(steered, world.start, cfg=1.0, steps=1, positive=positive, negative=negative)
            changes.append(seen[-1])
        (x, plain), (_, changed) = changes
        full = x[0] @ (file_change(file, name)).T
        share = ((changed - plain)[0] * full).sum(dim=1) / full.square().sum(dim=1)
        marks = positive[0][1][MARK]
        wanted = torch.full((77,), 0.5)
        wanted[list(marks.tokens[0])], wanted[list(marks.tokens[1])] = 1.0, 0.0
        assert len(marks.tokens[0]) > 1 and torch.allclose(share[:77], wanted, atol=1e-3)

    @pytest.fixture
    def fresh_compiler(self) -> Iterator[None]:
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    @pytest.mark.usefixtures("fresh_compiler")
    def test_compiled(self) -> None:
        from comfy_extras.nodes_torch_compile import TorchCompileModel

        model = tiny.unet("sd15")
        file = files.weights(model, 1)
        wanted = tiny.sample(patched(model, files.everywhere(file)), tiny.noise(32, 32), steps=1)
        compiled = TorchCompileModel.execute(model, "eager").result[0]
        found = tiny.sample(patched(compiled, files.everywhere(file)), tiny.noise(32, 32), steps=1)
        assert far(found, wanted) < 1e-5
        plain = tiny.sample(compiled, tiny.noise(32, 32), steps=1)
        assert far(plain, tiny.sample(model, tiny.noise(32, 32), steps=1)) < 1e-5


class TestNothingStays:
    @pytest.mark.parametrize("error", [ValueError, comfy.model_management.InterruptProcessingException])
    def test_after_a_run_an_error_and_a_cancel(self, error: type[BaseException]) -> None:
        model = tiny.unet("sd15")
        before, region = hooks_on(model), patched(model, files.everywhere(files.weights(model, 1)))
        tiny.sample(region, tiny.noise(16, 16), steps=1)
        assert hooks_on(model) == before
        layer = model.model.diffusion_model.middle_block[0]

        def fail(*_: Any) -> None:
            assert hooks_on(model) > before + 10, "twin: in the middle of a call they are there"
            raise error

        handle = layer.register_forward_hook(fail)
        with pytest.raises(error):
            tiny.sample(region, tiny.noise(16, 16), steps=1)
        handle.remove()
        assert hooks_on(model) == before

    def test_a_plain_clone_is_bit_identical_before_and_after(self) -> None:
        model = tiny.unet("sd15")
        plain = tiny.sample(model, tiny.noise(32, 32))
        region = patched(model, files.everywhere(files.weights(model, 1)))
        tiny.sample(region, tiny.noise(32, 32))
        assert torch.equal(tiny.sample(model.clone(), tiny.noise(32, 32)), plain)


class TestGradients:
    @pytest.mark.parametrize("kind", ["sd3", "flux"])
    def test_through_the_layers_changes(self, kind: str) -> None:
        """The gradient of the denoised picture by the noise is the merged model's."""
        with outside_inference_mode():
            model = transformers.build(kind)
            file = files.weights(model, 1)
            region = patched(model, files.everywhere(file))
            found, wanted = (gradient(kind, each) for each in (region, loaded(model, file)))
        assert far(found, wanted) < 1e-4

    @pytest.mark.parametrize("apart", [0.0, 1.0])
    def test_beside_another_evaluation_in_the_same_step(self, apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """ComfyUI computes SD3's blocks again on the way back where they are replaced, as attention hooks do: after SAG
        has evaluated the network once more, for other rows. The same gradient as where nothing is computed again."""
        with outside_inference_mode():
            model = transformers.build("sd3")
            halves = files.halves(files.weights(model, 1), files.weights(model, 2))
            (region,) = techniques.outputs(FoveaSelfAttentionGuidance, model=patched(model, halves, apart=apart))
            found = gradient("sd3", region)
            monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda run, *x, use_reentrant, **y: run(*x, **y))
            assert far(found, gradient("sd3", region)) < 1e-5
            assert far(found, gradient("sd3", patched(model, halves, apart=apart))) > 0.01, "twin: SAG did something"

    def test_nothing_of_them_outlives_the_call(self) -> None:
        """The next call may be one in which no LoRA acts."""

        def two_calls(model: Any) -> Tensor:
            guider = comfy.samplers.CFGGuider(model)
            guider.set_conds(tiny.prompt(1), tiny.prompt(2))
            guider.set_cfg(3.0)
            found: list[Tensor] = []

            def sampler(model_k: Any, x: Tensor, _sigmas: Tensor, extra_args: dict, **_: Any) -> Tensor:
                with torch.enable_grad():
                    found.append(model_k(x.detach().requires_grad_(True), torch.tensor([10.0]), **extra_args).detach())
                found.append(model_k(x * 0.05, torch.tensor([0.5]), **extra_args))
                return x

            start, sigmas = tiny.noise(16, 16), torch.tensor([10.0, 0.5, 0.0])
            guider.sample(start, torch.zeros_like(start), comfy.samplers.KSAMPLER(sampler), sigmas, disable_pbar=True)
            return torch.stack(found)

        with outside_inference_mode():
            model = tiny.unet("shallow")
            wanted = two_calls(model)
            high, low = two_calls(patched(model, files.everywhere(files.weights(model, 1)), end=0.3))
        assert far(high, wanted[0]) > 0.01 and torch.equal(low, wanted[1])


def gradient(kind: str, model: Any) -> Tensor:
    """Of what a step of Euler makes of noise, by the noise."""
    start = transformers.noise(kind).requires_grad_(True)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(transformers.prompt(1), transformers.prompt(2))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    found: list[Tensor] = []
    keeping = saved_tensor_guard(model, ())

    def sampler(model_k: Any, x: Tensor, sigmas: Tensor, **_: Any) -> Tensor:
        with torch.enable_grad(), keeping():
            x = x.detach().requires_grad_(True)
            denoised = model_k(x, sigmas[:1].expand(len(x)), **_["extra_args"])
            found.append(torch.autograd.grad(denoised.square().sum(), x)[0])
        return denoised.detach()

    guider.sample(start.detach(), torch.zeros_like(start), comfy.samplers.KSAMPLER(sampler), sigmas, disable_pbar=True)
    return found[0]


class TestTextEncoder:
    """A region's prompt is encoded with the text encoder's part of its LoRA; the rest of the prompt is not."""

    def weights(self, clip: Any, model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of a LoRA: its part for the text encoder, its part for the model."""
        generator = torch.Generator().manual_seed(1)
        name, shape = next((name, part.weight.shape) for name, part in clip.cond_stage_model.named_modules()
                           if name.endswith("layers.0.mlp.fc1"))  # fmt: skip
        text = {f"text_encoders.{name}.lora_up.weight": torch.randn(shape[0], 2, generator=generator),
                f"text_encoders.{name}.lora_down.weight": torch.randn(2, shape[1], generator=generator)}  # fmt: skip
        return text, files.weights(model, 1, lambda each: each.endswith("attn2.to_v"))

    def encoded(self, separate: bool, mode: str) -> tuple[list[Tensor], Any, list[str]]:
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        text, unet = self.weights(world.clip, model)
        lora = {**unet, **text}
        left, right = techniques.halves().items
        found, marks, notes = [], None, []
        for loras in ((), (Lora("x", lora, 1.0, 1.0),)):
            regions = Regions((replace(left, loras=loras), right))
            given = {"model": model, "clip": world.clip, "regions": regions, "prompt": techniques.PROMPT}
            _, positive, _, report = techniques.outputs(FoveaDenseDiffusion, **given, mode=mode,
                                                        encode_regions_separately=separate)  # fmt: skip
            found.append(positive[0][0][0])
            marks, notes = positive[0][1][MARK], [report]
        return found, marks, notes

    @pytest.mark.parametrize("mode", ["prompt", "concat"])
    def test_only_the_regions_words_change(self, mode: str) -> None:
        (plain, changed), marks, notes = self.encoded(True, mode)
        differ = (plain - changed).abs().amax(dim=1) > 1e-4
        assert differ[list(marks.tokens[0])].any() and notes == [""]
        differ[list(marks.tokens[0])] = False
        assert not differ.any()

    def test_not_encoded_separately_it_cannot(self) -> None:
        (plain, changed), _, notes = self.encoded(False, "prompt")
        assert torch.equal(plain, changed) and "only where regions are encoded separately" in notes[0]

    def test_a_lora_without_a_part_for_it_leaves_it_as_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        """And of no LoRA is it said that the part for the model was not loaded into the text encoder."""
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        text, unet = self.weights(world.clip, model)
        left, right = techniques.halves().items
        one, both = (replace(left, loras=(Lora("x", file, 1.0, 1.0),)) for file in (unet, {**unet, **text}))
        assert model_patch.clip_of(world.clip, one) is world.clip is not model_patch.clip_of(world.clip, both)
        given = {"model": model, "clip": world.clip, "regions": Regions((one, right)), "prompt": techniques.PROMPT}
        *_, report = techniques.outputs(FoveaDenseDiffusion, **given, encode_regions_separately=False)
        assert report == "" and "not loaded" not in caplog.text.lower()


class TestAsMaskedHooks:
    def test_regions_to_conditioning_makes_comfyuis_own(self) -> None:
        """One region over the whole picture, no common prompt: the loader's LoRA."""
        world, model = techniques.shapesworld(), techniques.demo_model.load_model()
        file, left = files.weights(model, 1), techniques.halves().items[0]
        regions = Regions((files.region(torch.ones(1, 32, 32), file, prompt=left.prompt),))
        (masked,) = techniques.outputs(FoveaRegionsToConditioning, clip=world.clip, regions=regions)
        with torch.inference_mode():
            plain, wanted = (
                tiny.sample(each, world.start, cfg=1.0, steps=2, positive=encode(world.clip, left.prompt),
                            negative=world.negative) for each in (model, loaded(model, file)))  # fmt: skip
            found = tiny.sample(model, world.start, cfg=1.0, steps=2, positive=masked, negative=world.negative)
        assert far(found, wanted) < 1e-4 < 0.05 < far(plain, wanted)


class TestNodes:
    def regions(self) -> Regions:
        return Regions((Region(torch.ones(1, 8, 8), "a red star"), Region(torch.zeros(1, 8, 8), "a blue circle")))

    @pytest.fixture
    def file(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
        from fovea.models import lora_files

        weights = {"a.lora_up.weight": torch.ones(1)}
        monkeypatch.setattr(lora_files, "read", lambda name: weights)
        return weights

    @pytest.mark.parametrize(("which", "chosen"), [("1", [1, 0]), ("2", [0, 1]), ("", [1, 1]), ("Blue", [0, 1]),
                                                   ("a ", [1, 1])])  # fmt: skip
    def test_which_region(self, file: dict[str, Tensor], which: str, chosen: list[int]) -> None:
        given = {"regions": self.regions(), "lora_name": "x.safetensors"}
        (found,) = techniques.outputs(FoveaAddRegionLora, **given, region=which)
        assert [len(region.loras) for region in found.items] == chosen

    @pytest.mark.parametrize("which", ["3", "\u00b2"])  # a superscript two is a digit and no number
    def test_no_such_region(self, file: dict[str, Tensor], which: str) -> None:
        with pytest.raises(ValueError, match=rf"no '{which}'. The regions are 1: a red star, 2: a blue circle"):
            techniques.outputs(FoveaAddRegionLora, regions=self.regions(), region=which, lora_name="x.safetensors")

    def test_without_a_lora_the_model_is_passed_on(self) -> None:
        model = tiny.unet("sd15")
        patched, report = techniques.outputs(FoveaRegionLora, model=model, regions=self.regions())
        assert patched is model and report.endswith("No region has a LoRA.")

    def test_a_model_that_is_not_known(self, file: dict[str, Tensor]) -> None:
        given = {"regions": self.regions(), "lora_name": "x.safetensors"}
        (regions,) = techniques.outputs(FoveaAddRegionLora, **given, region="1")
        with pytest.raises(ValueError, match=r"Region LoRA: it is not known what the layers .*PixArt"):
            techniques.outputs(FoveaRegionLora, model=tiny.pixart(), regions=regions)

    def test_a_lora_of_another_model(self, file: dict[str, Tensor]) -> None:
        given = {"regions": self.regions(), "lora_name": "x.safetensors"}
        (regions,) = techniques.outputs(FoveaAddRegionLora, **given, region="1")
        with pytest.raises(ValueError, match=r"Region LoRA: LoRA x.safetensors fits no layer"):
            techniques.outputs(FoveaRegionLora, model=tiny.unet("sd15"), regions=regions)
