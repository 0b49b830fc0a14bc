"""Training with steered attention: true places of what a caption names, and the scores that the nodes would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from comfy.model_sampling import ModelSamplingDiscrete

from fovea.guidance.regions.masks import Region, Regions
from fovea.guidance.regions.score_bias import RegionBias
from fovea.models.shapesworld import generator
from tools.shapesworld import sets, train_experts, train_steered, words, world
from tools.shapesworld.train_lora import generator_with_change
from tools.studies import sampling
from tools.studies.demo_setup import DemoSetup
from tools.studies.regions.methods import Steered

TEXT = "a striped red circle and a blue star on a white background"


def thing(color: str, shape: str, texture: str, x: float) -> world.Thing:
    return world.Thing(color=color, shape=shape, texture=texture, x=x, y=128.0, radius=44.0, angle=0.0,
                       grain=0.0)  # fmt: skip


# Of two regions in a picture of 128 pixels: rows, columns of the first, of the second. The second ones are whole tokens
# of every layer: for the nodes, hard regions have no others.
PLACES, WHOLE_TOKENS = ((20, 100), (8, 56), (72, 120)), ((32, 96), (0, 32), (64, 96))
CIRCLE, STAR = thing("red", "circle", "striped", 64.0), thing("blue", "star", "plain", 192.0)


def test_an_object_is_found_with_article_and_texture() -> None:
    ids = words.encode(TEXT)
    named = lambda places: [int(ids[i]) for i in places]  # noqa: E731
    assert named(train_steered.phrase(ids, CIRCLE)) == words.encode("a striped red circle")[1:5].tolist()
    assert named(train_steered.phrase(ids, STAR)) == words.encode("a blue star")[1:4].tolist()
    assert train_steered.phrase(ids, thing("pink", "heart", "dotted", 0.0)) == []
    assert train_steered.phrase(words.encode(""), STAR) == []
    for index in range(30):
        scene = sets.scene("tune", index)
        ids = words.encode(world.caption(scene, np.random.default_rng(index)))
        found = [train_steered.phrase(ids, each) for each in scene.things]
        assert all(found) and len({i for own in found for i in own}) == sum(map(len, found)), "none is shared"


def test_regions_lie_about_where_objects_are() -> None:
    rng = np.random.default_rng(0)
    shifts, sizes, kept = [], [], 0
    for _ in range(200):
        scene = world.Scene((CIRCLE, STAR), "white", "flat")
        given = train_steered.layouts([scene], [TEXT], rng)
        assert given.masks.shape == (1, 4, 128, 128) and given.words.shape == (1, 77, 4)
        assert (given.words.sum(1) > 0).tolist() == (given.masks.flatten(2).sum(-1) > 0).tolist()
        for region, each in enumerate(scene.things):
            mask = given.masks[0, region]
            if mask.any():
                kept += 1
                x = mask.sum(0).nonzero().flatten().float() * 2 + 1
                shifts.append(float(x.mean()) - each.x)
                sizes.append(float(x.max() - x.min() + 2) / (2 * each.radius))
    assert 0.75 < kept / 400 < 0.95
    assert max(map(abs, shifts)) < 0.25 * 44 and min(sizes) > 0.6 and max(sizes) < 1.4 and np.std(sizes) > 0.1


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    model = generator.unet()
    model.load_state_dict(train_experts.base())
    return model.eval().requires_grad_(False)


def masks_of(places: tuple, scale: int = 1) -> torch.Tensor:
    """Of both regions, [2, height, width]."""
    masks, (rows, *columns) = torch.zeros(2, 128, 128), [slice(*each) for each in places]
    for mask, own in zip(masks, columns):
        mask[rows, own] = 1
    return masks.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def options(
    network: torch.nn.Module, how: train_steered.Operator, strengths: torch.Tensor, places: tuple = PLACES
) -> dict[str, Any]:
    """Two halves of the picture, in every sample of the batch."""
    masks = torch.zeros(len(strengths), 4, 128, 128)
    masks[:, :2] = masks_of(places)
    owned = torch.zeros(len(strengths), 77, 4)
    ids = words.encode(TEXT)
    for region, each in enumerate((CIRCLE, STAR)):
        owned[:, train_steered.phrase(ids, each), region] = 1
    return train_steered.patches(network, train_steered.Layouts(masks, owned), how, strengths)


def test_a_sample_of_strength_0_is_left_alone_and_every_layer_is_reached(network: torch.nn.Module) -> None:
    torch.manual_seed(0)
    x, t, context = torch.randn(2, 4, 32, 32), torch.tensor([900, 900]), torch.randn(2, 77, 256)
    how = train_steered.Operator(RegionBias("range", 0.0, 0.0, False, outside_weight=0.5), 1.0, 0.5, 0.0)
    given = options(network, how, torch.tensor([0.0, 1.0]))
    calls = sum(len(each) for each in given["patches_replace"].values())
    assert calls == 2 * sum(hasattr(module, "transformer_blocks") for module in network.modules())
    plain, steered = network(x, t, context), network(x, t, context, transformer_options=given)
    torch.testing.assert_close(steered[0], plain[0], atol=1e-4, rtol=1e-4)
    assert (steered[1] - plain[1]).abs().max() > 0.05


@pytest.mark.parametrize("bias", [
    RegionBias("range"),
    RegionBias("row max", 0.0, 0.0, False),
    RegionBias("row std", 0.0, 0.0, False, outside_weight=0.7),
    RegionBias("hard", 0.0, 0.0, False),
])  # fmt: skip
def test_training_steers_as_the_nodes_do(network: torch.nn.Module, bias: RegionBias) -> None:
    unit = 5.0 if bias.score_unit == "row std" else 1.0
    demo, how = DemoSetup(), train_steered.Operator(bias, unit, 0.4 * unit, 0.0)
    places = WHOLE_TOKENS if bias.score_unit == "hard" else PLACES
    given, masks = options(network, how, torch.ones(1), places), masks_of(places, 2)
    regions = Regions((Region(masks[:1], "a striped red circle"), Region(masks[1:], "a blue star")))
    told = {key: getattr(bias, key) for key in bias.__dataclass_fields__}
    method = Steered(how.text, how.image, "constant", end=1.0, **told)
    model, positive, negative = method(demo.model, demo.clip, regions, TEXT)
    with torch.no_grad():
        found = sampling.sample_latent(model, positive, negative, torch.zeros(1, 4, 32, 32), 5, 1, 1.0)
        plain = sampling.sample_latent(demo.model, positive, negative, torch.zeros(1, 4, 32, 32), 5, 1, 1.0)
        noise = torch.randn(1, 4, 32, 32, generator=torch.manual_seed(5))
        sigma = float(ModelSamplingDiscrete().sigma_max)
        v = network(noise, torch.tensor([999]), positive[0][0].float(), transformer_options=given)
    root = (sigma**2 + 1) ** 0.5
    wanted = noise / root - v * sigma / root  # denoised, of v-prediction; the sampler begins with noise times the root
    latent = demo.model.model.latent_format
    wanted = latent.process_out(wanted)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)
    assert (found - plain).abs().max() > 0.1


def test_only_the_change_is_trained() -> None:
    torch.manual_seed(0)
    model = generator_with_change()
    how = train_steered.operator(np.random.default_rng(3))
    given = options(model, how, torch.tensor([1.0, 0.0]))
    out = model(torch.randn(2, 4, 32, 32), torch.tensor([900, 700]), torch.randn(2, 77, 256),
                transformer_options=given)  # fmt: skip
    out.square().mean().backward()
    trained = [name for name, p in model.named_parameters() if p.grad is not None]
    assert trained and all(name.endswith((".up", ".down")) for name in trained)


def test_how_far_scores_are_moved_has_no_gradient() -> None:
    """With the bias as a constant, written out, gradients are the same."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, 32, requires_grad=True) for n in (64, 77, 77))
    masks, owned = torch.zeros(1, 4, 128, 128), torch.zeros(1, 77, 4)
    masks[:, 0, :, :64], owned[:, 3:6, 0] = 1, 1
    how = train_steered.Operator(RegionBias("range", 0.0, 0.0, False), 0.8, 0.0, 0.0)
    settings = {"n_heads": 2, "activations_shape": [1, 32, 8, 8]}
    given = train_steered.Layouts(masks, owned)
    out = train_steered.attend(given, how, torch.ones(1), owned, q, k, v, settings)
    found = torch.autograd.grad(out.square().sum(), (q, k))
    heads = [each.view(1, -1, 2, 16).transpose(1, 2) for each in (q, k, v)]
    scores = heads[0] @ heads[1].mT / 4
    left = (torch.arange(64) % 8 < 4).float()[:, None] * owned[0, :, 0]
    height = (scores.amax(-1, keepdim=True) - scores.amin(-1, keepdim=True)).detach()
    written = ((scores + 0.8 * height * left).softmax(-1) @ heads[2]).transpose(1, 2).reshape(1, 64, 32)
    torch.testing.assert_close(out, written, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(written.square().sum(), (q, k))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_operators_differ_and_the_sham_is_never_steered() -> None:
    rng = np.random.default_rng(0)
    drawn = [train_steered.operator(rng) for _ in range(200)]
    assert len({each.bias.score_unit for each in drawn}) == 4
    assert {each.bias.temperature for each in drawn} == {0.0, 1.0}
    assert min(each.text for each in drawn) >= 0.3 and max(each.text for each in drawn) <= 20
    assert not train_steered.PARTS["steered_sham"]
    assert train_steered.PARTS["steered"] >= 0.25
