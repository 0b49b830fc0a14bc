"""Nodes of ComfyUI as scorers: called as ComfyUI calls them, in searches without gradient, clear refusals."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import pytest
import techniques
import torch
from comfy_api.latest import io
from comfy_extras.nodes_images import GetImageSize
from torch import Tensor

import nodes as comfy_nodes
from fovea.guidance.gradients.autograd import NoGradient
from fovea.guidance.regions import prompt_encoding
from fovea.models.scorers import comfy_clip
from fovea.models.scorers.rating_node import NoRatingNode
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.clip_guidance import FoveaCLIPGuidance
from fovea.nodes.noise_optimization import FoveaBestOfN, FoveaOptimizeLatent
from fovea.nodes.scorers import FoveaScoreImages, FoveaScorerFromNode

pictures = torch.rand(3, 3, 40, 56, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.5, 1.0, 0.2])[
    :, None, None, None
]


class Brightness:
    """A V1 node with inputs of every kind; its text adds its length."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION = ("STRING", "FLOAT"), ("said", "brightness"), "measure"
    made = 0

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"image": ("IMAGE",), "prompt": ("STRING", {"multiline": True}), "model": ("BRIGHTNESS_MODEL",),
                         "scale": ("FLOAT", {"default": 10.0}), "channel": (["all", "red"],), "steps": ("INT", {})},
            "optional": {"mask": ("MASK",)}, "hidden": {"graph": "PROMPT"},
        }  # fmt: skip

    def __init__(self) -> None:
        type(self).made += 1

    def measure(
        self, image: Tensor, prompt: str, model: float, scale: float, channel: str, steps: int, graph: Any
    ) -> Any:
        assert image.ndim == 4 and len(image) == 1 and graph is None and steps == 0
        seen = image[..., 0] if channel == "red" else image
        return {"ui": {"text": [prompt]}, "result": (prompt, scale * float(seen.mean()) + model + len(prompt))}


class Contrast(io.ComfyNode):
    """A V3 node, which looks at the picture alone and takes lists."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestContrast", is_input_list=True,
            inputs=[io.Image.Input("pixels"), io.Combo.Input("kind", options=["std", "range"]),
                    io.Float.Input("power", default=2.0)],
            outputs=[io.Image.Output(), io.Float.Output(display_name="contrast", is_output_list=True)],
        )  # fmt: skip

    @classmethod
    def execute(cls, pixels: list[Tensor], kind: list[str], power: list[float]) -> io.NodeOutput:
        assert cls.hidden.unique_id is None
        value = pixels[0].std() if kind[0] == "std" else pixels[0].amax() - pixels[0].amin()
        return io.NodeOutput(pixels[0], [float(value) ** power[0]])


class Waits(Brightness):
    async def measure(self, **_: Any) -> Any:
        return ()


class Silent(Brightness):
    def measure(self, **_: Any) -> Any:
        return ("nothing", "at all")


class Blind(Brightness):
    RETURN_TYPES = ("STRING", "IMAGE")


class Wired:
    """Its number has to be connected; its text need not be, for it has a default."""

    RETURN_TYPES, FUNCTION = ("FLOAT",), "measure"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "scale": ("FLOAT", {"forceInput": True}),
                             "note": ("STRING", {"forceInput": True, "default": "xy"})}}  # fmt: skip

    def measure(self, image: Tensor, scale: float, note: str) -> tuple[float]:
        return (scale * len(note),)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"Brightness": Brightness, "Waits": Waits, "Silent": Silent, "Blind": Blind, "TestContrast": Contrast,
             "GetImageSize": GetImageSize, "Wired": Wired}  # fmt: skip
    for name, node in found.items():
        monkeypatch.setitem(comfy_nodes.NODE_CLASS_MAPPINGS, name, node)


def scorer(node: str, values: str = "{}", lower: bool = False, *sockets: Any) -> Any:
    with torch.inference_mode():
        return FoveaScorerFromNode.execute(node, values, lower, *sockets).result[0]


def rated(made: Any, prompt: str = "star") -> Tensor:
    return made.scores(made.losses(pictures, made.target(prompt)))


def test_a_v1_node() -> None:
    """Its own defaults, the prompt in the input of that name, a socket for the rest; made once."""
    before = Brightness.made
    made = scorer("Brightness", "{}", False, 100.0)
    torch.testing.assert_close(rated(made), 10 * pictures.mean(dim=(1, 2, 3)) + 104)
    assert Brightness.made == before + 1 and made.unit == "brightness"
    assert made.reads_prompt and not made.differentiable and made.whole and not hasattr(made, "patcher")


def test_values() -> None:
    """Instead of defaults, of a socket, and around the prompt."""
    made = scorer("Brightness", '{"scale": 1, "channel": "red", "model": 0, "prompt": "is it {prompt}?"}', True)
    found = rated(made)
    torch.testing.assert_close(found, -(pictures[:, 0].mean(dim=(1, 2)) + len("is it star?")))
    assert made.unit == "minus brightness", "higher is better, as of every scorer"


def test_a_v3_node() -> None:
    made = scorer("TestContrast", '{"power": 1}')
    torch.testing.assert_close(rated(made), torch.stack([picture.std() for picture in pictures]))
    assert made.unit == "contrast" and not made.reads_prompt


def test_a_node_of_comfyui() -> None:
    """Its first number: the picture comes as it is, not as a square."""
    assert rated(scorer("GetImageSize")).tolist() == [56.0] * 3


@pytest.mark.parametrize(
    "node, values, said",
    [
        ("Nothing", "{}", "Node name for S&R"), ("EmptyLatentImage", "{}", "number"), ("Blind", "{}", "number"),
        ("Brightness", "{}", r"wants 1 sockets \['model'\]"), ("Waits", '{"model": 1}', "async"),
        ("Wired", "{}", r"wants 1 sockets \['scale'\]"),
        ("Brightness", "{", "JSON"), ("Brightness", "[1]", "JSON"), ("Brightness", '{"size": 1}', "no input 'size'"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_scorer(node: str, values: str, said: str) -> None:
    with pytest.raises(NoRatingNode, match=said):
        scorer(node, values)


def test_what_has_to_be_connected_is_no_zero() -> None:
    assert rated(scorer("Wired", "{}", False, 3.0)).tolist() == [6.0] * 3


def test_pictures_that_hold_no_numbers_have_no_score() -> None:
    """Many nodes would make black pictures of them, which may be liked best."""
    broken, made = pictures.clone(), scorer("GetImageSize")
    broken[1, 0, 3, 3] = torch.nan
    found = made.scores(made.losses(broken, ""))
    assert found[[0, 2]].tolist() == [56.0] * 2 and found[1].isnan()


def test_more_than_it_takes() -> None:
    with pytest.raises(NoRatingNode, match="wants 0 sockets"):
        scorer("TestContrast", "{}", False, 1.0)


def test_a_node_that_gives_no_number() -> None:
    with pytest.raises(NoRatingNode, match="'at all' in place of a number"):
        rated(scorer("Silent", '{"model": 1}'))


def test_models_that_a_node_pushes_out_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search has the sampled model loaded while it scores. What stayed is loaded along with what comes back: else it
    would have to make room."""
    mm.unload_all_models()
    models = [comfy_clip.patched(torch.nn.Linear(2, 2)) for _ in range(2)]
    made, load = scorer("TestContrast"), mm.load_models_gpu
    stay: list[Any] = []
    asked: list[list[Any]] = []

    def push(*_: Any, **__: Any) -> Any:
        kept = [each for each in mm.current_loaded_models if each.model in stay]
        mm.free_memory(1e30, mm.get_torch_device(), kept)
        return (None, 1.0)

    def watched(wanted: list[Any]) -> None:
        asked.append(sorted(wanted, key=models.index))
        load(wanted)

    object.__setattr__(made, "call", push)
    load(models)
    monkeypatch.setattr(mm, "load_models_gpu", watched)
    stay += models
    rated(made)
    assert asked == [], "nothing is gone"
    stay.remove(models[1])
    rated(made)
    assert asked == [models] * len(pictures)
    assert {id(each.model) for each in mm.current_loaded_models} == set(map(id, models))
    mm.unload_all_models()


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    with torch.inference_mode():
        model, clip, vae = demo_model.load_model(), demo_model.load_clip(), demo_model.load_vae()
        return {
            "model": model, "vae": vae, "positive": prompt_encoding.encode(clip, "a red star"),
            "negative": prompt_encoding.encode(clip, ""), "latent_image": {"samples": torch.zeros(1, 4, 32, 32)},
            "prompt": "star", "seed": 5, "steps": 2, "scheduler": "normal", "cfg": 4.0,
        }  # fmt: skip


def test_clip_guidance_wants_a_gradient(given: dict[str, Any]) -> None:
    with pytest.raises(NoGradient, match="Best of N"), torch.inference_mode():
        FoveaCLIPGuidance.execute(given["model"], given["vae"], scorer("TestContrast"), "star", 20.0, 0, 0.0, 1.0)


def test_searches(given: dict[str, Any]) -> None:
    """Best of N finds the candidate that the node likes best; Optimize Latent changes nothing and says why."""
    best = {}
    for lower in (False, True):
        made = scorer("Brightness", '{"model": 0}', lower)
        with torch.inference_mode():
            _, image, *_, report = techniques.outputs(FoveaBestOfN, **given, scorer=made, candidates=6)
            _, same, *_, told = techniques.outputs(
                FoveaOptimizeLatent, **given, scorer=made, candidates=6, iterations=3, salient_weight=0.5,
            )  # fmt: skip
            score = FoveaScoreImages.execute(image, made, "star").result[2]
        assert torch.equal(image, same) and "gives no gradient" in told and "gives no gradient" not in report
        assert score.endswith("picture 1")
        best[lower] = float(image.mean())
    assert best[False] > best[True] + 0.01
