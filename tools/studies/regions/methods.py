"""Ways of telling a model what shall be where: the region nodes' settings, their ablations, and what others do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...comfy.node_values import arguments

Prepared = tuple[Any, list, list]  # model, positive, negative
Method = Callable[[Any, Any, Any, str], Prepared]  # (model, clip, regions, caption) -> Prepared


def plain(model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
    from fovea.guidance.regions import prompt_encoding

    return model, prompt_encoding.encode(clip, caption), prompt_encoding.encode(clip, "")


def masked(model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
    """ComfyUI's own masked prompts beside the caption."""
    from fovea.guidance.regions import prompt_encoding

    return model, prompt_encoding.masked(clip, caption, regions, 0.5), prompt_encoding.encode(clip, "")


@dataclass(frozen=True)
class Couple:
    """As attention-couple nodes do: cross-attention to each region's own prompt, added by mask; `share` of it, the rest
    stays with the caption."""

    share: float

    def __call__(self, model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
        from fovea.guidance.regions import prompt_encoding
        from fovea.guidance.regions.masks import token_shares

        canvas = regions.canvas()
        texts = [caption, *(region.prompt for region in regions.items)]
        prompts = [prompt_encoding.encode(clip, text)[0][0] for text in texts]

        def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], attn: Any) -> Tensor:
            from comfy.ldm.modules.attention import optimized_attention

            out = optimized_attention(q, k, v, options["n_heads"])
            shares = self.share * token_shares(canvas, options["activations_shape"][2:], (32, 32), (32, 32))[0].to(q)
            size = len(q) // len(options["cond_or_uncond"])
            for chunk, index in enumerate(options["cond_or_uncond"]):
                if index == 0:
                    rows = slice(chunk * size, (chunk + 1) * size)
                    each = [p.expand(size, -1, -1) for p in prompts]
                    out[rows] = sum(
                        weight[None, :, None]
                        * optimized_attention(q[rows], attn.to_k(p), attn.to_v(p), options["n_heads"])
                        for weight, p in zip([1 - shares.sum(-1), *shares.unbind(-1)], each)
                    )
            return out

        patched, network = model.clone(), model.model.diffusion_model
        for section, blocks in (("input", network.input_blocks), ("middle", [network.middle_block]),
                                ("output", network.output_blocks)):  # fmt: skip
            for number, block in enumerate(blocks):
                for module in block:
                    for inner in getattr(module, "transformer_blocks", ()):
                        replacement = lambda q, k, v, options, a=inner.attn2: attend(q, k, v, options, a)  # noqa: E731
                        patched.set_model_attn2_replace(replacement, section, number)
        return patched, prompt_encoding.encode(clip, caption), prompt_encoding.encode(clip, "")


class Steered:
    """A member of the family that the region nodes offer."""

    def __init__(
        self, text: float, image: float, law: str = "power", exponent: float = 5.0, end: float = 0.3,
        mode: str = "auto", blocks: str = "all", **bias: Any,
    ) -> None:  # fmt: skip
        self.text, self.image, self.law, self.exponent, self.end = text, image, law, exponent, end
        self.mode, self.blocks, self.bias = mode, blocks, bias

    def __repr__(self) -> str:
        return f"Steered({', '.join(f'{key}={value!r}' for key, value in vars(self).items())})"

    def __call__(self, model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
        from fovea.attention.block_names import parse_blocks
        from fovea.attention.families.registry import family_of
        from fovea.guidance.regions import model_patch, prompt_encoding
        from fovea.guidance.regions.control import RegionControl
        from fovea.guidance.regions.score_bias import RegionBias

        blocks = None
        if self.blocks != "all":
            network = model.get_model_object("diffusion_model")
            family = family_of(network)
            assert family is not None
            blocks = parse_blocks(self.blocks, family.blocks(network), frozenset())
        patched = model.clone()
        model_patch.install(patched)
        control = RegionControl(
            RegionBias(**self.bias), self.text, self.image, 0.0, self.end, self.law, self.exponent, blocks
        )
        prompt = prompt_encoding.positive(clip, caption, regions, self.mode, True, control)
        return patched, prompt.conditioning, prompt_encoding.encode(clip, "")


class Nodes:
    """The nodes as a user has them. start: strength of Region Start, 0 without it; what is not given to Dense Diffusion
    is its default."""

    def __init__(self, start: float = 0.0, **dense: Any) -> None:
        self.start, self.dense = start, dense

    def __repr__(self) -> str:
        return f"Nodes({', '.join(f'{key}={value!r}' for key, value in {'start': self.start, **self.dense}.items())})"

    def __call__(self, model: Any, clip: Any, regions: Any, caption: str) -> Prepared:
        from fovea.nodes.region_start import FoveaRegionStart
        from fovea.nodes.regions import FoveaDenseDiffusion

        given: dict[str, Any] = {**self.dense, "model": model, "clip": clip, "regions": regions, "prompt": caption}
        dense = FoveaDenseDiffusion.execute(**arguments(FoveaDenseDiffusion, **given))
        model, positive, negative, _ = dense.result
        if self.start:
            given = {"strength": self.start, "background": caption, "model": model, "regions": regions}
            model = FoveaRegionStart.execute(**arguments(FoveaRegionStart, **given)).result[0]
        return model, positive, negative


def settings(method: Method) -> str:
    """What tells a method from another of the same name: kept results of other settings are not its own."""
    return getattr(method, "__name__", repr(method))


UP: dict[str, Any] = {"temperature": 0.0, "background": False}
WORDS: dict[str, Any] = {**UP, "score_unit": "row max", "area_weight": 0.0}
CONTRAST: dict[str, Any] = {**UP, "area_weight": 0.0, "outside_weight": 1.0}
ALONE: dict[str, Any] = {"cross_strength": 0.0, "self_strength": 0.0}
METHODS: dict[str, Method] = {
    "none": plain,
    "ConditioningSetMask": masked,
    "attention couple": Couple(1.0),
    "paint with words 0.4": Steered(0.4, 0, "log", end=1.0, **WORDS),
    "paint with words 4": Steered(4.0, 0, "log", end=1.0, **WORDS),
    "paper": Steered(1.0, 0.3),
    "paper, no cross": Steered(0.0, 0.3),
    "paper, no self": Steered(1.0, 0.0),
    "paper, no value range": Steered(1.0, 0.3, score_unit="std"),
    "paper, no area": Steered(1.0, 0.3, area_weight=0.0),
    # As the node has it, in standard deviations of a row's scores; found among the candidates, which count in ranges.
    "fovea": Steered(20.0, 4.6, exponent=2.0, end=0.5, **{**CONTRAST, "score_unit": "row std"}),
}
# What the start adds, beside the default of the node, which also keeps the rest of the prompt.
START: dict[str, Method] = {
    "none": plain,
    "dense diffusion": Nodes(),
    "arranged noise alone": Nodes(**ALONE, arranged_noises=1),
    "dense diffusion, arranged noise": Nodes(arranged_noises=1),
    "dense diffusion, mined from 8 noises": Nodes(arranged_noises=8),
    "dense diffusion, layout loss": Nodes(layout_iterations=3),
    "dense diffusion, arranged noise, layout loss": Nodes(arranged_noises=1, layout_iterations=3),
    "painted start alone": Nodes(1.0, **ALONE),
    "painted start, dense diffusion": Nodes(1.0),
    "painted start, dense diffusion, layout loss": Nodes(1.0, layout_iterations=2),
}
# They know the colors, from the words: more than masks tell.
WITH_COLORS = tuple(name for name in START if name.startswith("painted"))


def candidates() -> dict[str, Method]:
    """What is tried on the tuning set, beside METHODS: the baselines' own knobs, and the family; at most 40 in all."""
    found: dict[str, Method] = {"attention couple 0.5": Couple(0.5), "paper x2 end 0.5": Steered(2.0, 0.6, end=0.5)}
    for text in (1.0, 2.0):
        found[f"paint with words {text:g}"] = Steered(text, 0, "log", end=1.0, **WORDS)
    for end, exponent in ((0.3, 1.0), (0.5, 2.0), (1.0, 2.0)):
        for text, image in ((1.0, 0.3), (2.0, 0.6), (4.0, 1.0)):
            name = f"{text:g}/{image:g} end {end:g} pow {exponent:g}"
            found[f"up {name}"] = Steered(text, image, exponent=exponent, end=end, area_weight=0.0, **UP)
            found[f"contrast {name}"] = Steered(text, image, exponent=exponent, end=end, **CONTRAST)
    for text, image in ((4.0, 1.0), (8.0, 2.0)):
        found[f"contrast {text:g}/{image:g} end 0.3 pow 5"] = Steered(text, image, **CONTRAST)
    found["contrast 8/2 end 0.3 pow 1"] = Steered(8.0, 2.0, exponent=1.0, **CONTRAST)
    found["contrast 2/0 end 0.5 pow 2"] = Steered(2.0, 0.0, exponent=2.0, end=0.5, **CONTRAST)
    found["contrast half 2/0.6 end 0.5 pow 2"] = Steered(
        2.0, 0.6, exponent=2.0, end=0.5, **{**CONTRAST, "outside_weight": 0.5}
    )
    found["contrast area 2/0.6 end 0.5 pow 2"] = Steered(
        2.0, 0.6, exponent=2.0, end=0.5, **{**CONTRAST, "area_weight": 1.0}
    )
    found["contrast concat 2/0.6 end 0.5 pow 2"] = Steered(2.0, 0.6, exponent=2.0, end=0.5, mode="concat", **CONTRAST)
    found["hard end 0.5"] = Steered(1, 0, "constant", end=0.5, **{**UP, "score_unit": "hard", "area_weight": 0.0})
    return found
