"""VQAScore with any model of transformers from a folder: the probability by hand, what is offered, clear refusals."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    SiglipImageProcessor,
    SiglipVisionConfig,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from fovea.models.scorers import files, vqa
from fovea.models.scorers.open_clip import UnknownScorer
from fovea.nodes.scorers import FoveaLoadScorer, FoveaScoreImages, score_text

PROMPT = "a star"
ASKED = 'Does this figure show "a star"? Please answer yes or no.'
WORDS = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "<video>", "<vision>", "</vision>", "user", "assistant", "yes",
         "no", "Yes", "\u0120Yes", "\u2581yes", "yesterday", "Does", "this", "figure", "show", "a", "star", "dog", '"',
         '"?', "?", "Please", "answer", "or", ".", ":", "\n"]  # fmt: skip
YES = [WORDS.index(word) for word in ("yes", "Yes", "\u0120Yes", "\u2581yes")]
SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIZE, "vocab_size": len(WORDS), "num_key_value_heads": 2}
TURN = "user : {}{} assistant :"
TEMPLATE = (
    "{% for said in messages %}user : {% for part in said.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant :{% endif %}"
)
noise = torch.rand(2, 3, 60, 84, generator=torch.Generator().manual_seed(1))
pictures = noise * torch.tensor([1.0, 0.1]).reshape(2, 1, 1, 1)


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = ["<image>", "<video>", "<vision>", "</vision>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=marks, extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )  # fmt: skip


def llava() -> tuple[Any, Any, str]:
    """CLIP and Llama; with a chat template."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZE, image_size=28, patch_size=14), text_config=LlamaConfig(**TEXT),
        image_token_id=WORDS.index("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28), tokenizer(), patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor, TURN.format("<image>", ASKED)


def qwen() -> tuple[Any, Any, str]:
    """Pictures of any size, positions in three dimensions; with a chat template."""
    vision = {"embed_dim": 32, "hidden_size": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    rope = {"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3]}
    config = Qwen2VLConfig(
        text_config={**TEXT, "rope_scaling": rope, "rope_parameters": {**rope, "rope_theta": 1e4}},
        vision_config=vision, image_token_id=WORDS.index("<image>"), video_token_id=WORDS.index("<video>"),
        vision_start_token_id=WORDS.index("<vision>"), vision_end_token_id=WORDS.index("</vision>"),
    )  # fmt: skip
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16), tokenizer(), Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", "<vision><image></vision>"),
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration(config), processor, TURN.format("<vision><image></vision>", ASKED)


def paligemma() -> tuple[Any, Any, str]:
    """SigLIP and Gemma; without a chat template."""
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**SIZE, image_size=28, patch_size=14),
        text_config=GemmaConfig(**TEXT, head_dim=16), image_token_index=WORDS.index("<image>"), projection_dim=32,
    )  # fmt: skip
    seen = SiglipImageProcessor(size={"height": 28, "width": 28})
    seen.image_seq_length = 4
    return PaliGemmaForConditionalGeneration(config), PaliGemmaProcessor(seen, tokenizer()), "<image>" + ASKED


KINDS = {"llava": llava, "qwen2_vl": qwen, "paligemma": paligemma}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per model, as pages of the hub have them."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in KINDS.items():
        torch.manual_seed(0)
        network, processor, _ = make()
        with torch.no_grad():  # answers that are not alike, and that depend on the picture
            network.get_output_embeddings().weight.mul_(20)
            for name_of, value in network.named_parameters():
                value.mul_(30 if "projector" in name_of or "v_proj" in name_of else 1)
        network.eval().save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.fixture
def no_net(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the net")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def scorers(folders: Path, tmp_path: Path, model_folder) -> Path:
    """models/scorers with the models' folders, and with room for more."""
    shutil.copytree(folders, tmp_path / "scorers")
    model_folder(files.FOLDER, tmp_path / "scorers")
    return tmp_path / "scorers"


def by_hand(folder: Path, picture: Tensor, text: str) -> float:
    """One run of the network on a text that is written out, and what its last logits say of the words."""
    network, processor, _ = KINDS[folder.name]()
    network = type(network).from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(images=vqa.to_pil(picture), text=text, return_tensors="pt")
    with torch.no_grad():
        logits = network(**inputs).logits[0, -1]
    return sum(float(value) for place, value in enumerate(logits.double().softmax(0)) if place in YES)


def ready(folder: Path) -> vqa.VqaScorer:
    """As those who use a scorer have it."""
    scorer = vqa.load(folder)
    mm.load_models_gpu([scorer.patcher])
    return scorer


@pytest.mark.parametrize("kind", KINDS)
def test_the_probability_of_yes(folders: Path, kind: str, no_net: None) -> None:
    scorer = ready(folders / kind)
    text = KINDS[kind]()[2]
    assert scorer.name == kind and not scorer.differentiable and scorer.whole
    found = scorer.scores(scorer.losses(pictures, scorer.target(PROMPT)))
    wanted = torch.tensor([100 * by_hand(folders / kind, picture, text) for picture in pictures])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (found[0] - found[1]).abs() > 1e-3 * found[0] > 0, "the picture matters"
    other = scorer.scores(scorer.losses(pictures, scorer.target("a dog")))
    assert ((other - found).abs() > 1e-3 * found).all(), "the prompt matters"


def test_pictures_that_hold_no_numbers_have_no_score(folders: Path) -> None:
    scorer = ready(folders / "llava")
    broken = pictures.clone()
    broken[1, 0, 3, 3] = torch.nan
    scores = scorer.scores(scorer.losses(broken, scorer.target(PROMPT)))
    assert scores[0].isfinite() and scores[1].isnan()


def test_weights_are_loaded_in_the_precision_that_is_used(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 4 would make them in float32 first, with twice the memory."""
    load = AutoModelForImageTextToText.from_pretrained
    given: list[torch.dtype] = []

    def watched(*args: Any, **more: Any) -> Any:
        made = load(*args, **more)
        given.append(made[0].dtype)
        return made

    monkeypatch.setattr(vqa.mm, "should_use_bf16", lambda *_: True)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", watched)
    network = vqa.load(folders / "llava").patcher.model.network
    assert given == [torch.bfloat16] and {value.dtype for value in network.parameters()} == {torch.bfloat16}


def test_words_that_mean_yes() -> None:
    assert vqa.yes_tokens({word: i for i, word in enumerate(WORDS)}) == sorted(YES)


def test_through_the_nodes(scorers: Path, no_net: None) -> None:
    """Folders of such models are offered in place of their files; a CLIP's folder is not one."""
    clip = scorers / "clip"
    clip.mkdir()
    (clip / "config.json").write_text(json.dumps({"model_type": "clip"}))
    for name in ("clip/model.safetensors", "alone.pt", "clip/merges.txt", ".gitattributes"):
        (scorers / name).write_bytes(b"")
    assert files.names() == sorted(["alone.pt", str(Path("clip/model.safetensors")), *KINDS])
    with torch.inference_mode():
        (scorer,) = FoveaLoadScorer.execute("llava", "auto").result
        image = pictures.movedim(1, -1)
        first, _, report = FoveaScoreImages.execute(image, scorer, PROMPT).result
    best = scorer.scores(scorer.losses(pictures, scorer.target(PROMPT)))
    assert torch.equal(first, image[best.argsort(descending=True)])
    assert report.splitlines()[0] == f"{score_text(float(best.max()))}  picture {int(best.argmax()) + 1}"


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def lack(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = {key: value for key, value in load_file(file).items() if "layers.1.self_attn.q_proj" not in key}
    save_file(state, file, metadata={"format": "pt"})


def code(folder: Path) -> None:
    """A model whose class is in the folder."""
    (folder / "mine.py").write_text("from pathlib import Path\nPath('evil').touch()\nclass C: pass\n")
    change(folder / "config.json", model_type="mine", auto_map={
        "AutoConfig": "mine.C", "AutoModelForImageTextToText": "mine.C", "AutoProcessor": "mine.C",
    })  # fmt: skip


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_yes(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    for word in ("\\u0120Yes", "\\u2581yes", "\u0120Yes", "\u2581yes", "Yes", "yes"):
        text = text.replace(f'"{word}"', f'"{word}x"')
    (folder / "tokenizer.json").write_text(text)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut": (cut, "cannot be loaded"),
    "lack": (lack, "lack"),
    "code": (code, "cannot be loaded"),
    "pickled": (pickled, r"no \*\.safetensors"),
    "other model": (lambda folder: change(folder / "config.json", model_type="bert"), "cannot be loaded"),
    "unknown model": (lambda folder: change(folder / "config.json", model_type="of tomorrow"), "cannot be loaded"),
    "no processor": (lambda folder: [each.unlink() for each in folder.glob("*processor*")], "cannot be loaded"),
    "no yes": (no_yes, 'no token for "yes"'),
}


@pytest.mark.parametrize("what", SPOILT)
def test_bad_folders(scorers: Path, what: str, no_net: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scorers)
    spoil, said = SPOILT[what]
    spoil(scorers / "llava")
    with pytest.raises(UnknownScorer, match=said) as error, torch.inference_mode():
        FoveaLoadScorer.execute("llava", "auto")
    assert "llava" in str(error.value) and "trust_remote_code" not in str(error.value)
    assert not Path("evil").exists()
