"""Scorers from files: right architecture, right vectors, gradients through to the pixels, and clear refusals."""

from __future__ import annotations

import ast
import logging
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from fovea.models.scorers import open_clip as open_clip_files
from fovea.models.scorers.open_clip import ARCHITECTURES, UnknownScorer
from fovea.models.shapesworld import loader as demo_model
from fovea.nodes.scorers import score_text
from tools.shapesworld import sets
from tools.shapesworld.world import caption, render

SMALL = "ViT-B-32"


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return open_clip.create_model(SMALL, pretrained=None).eval()


@pytest.fixture(scope="module")
def file(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorers") / "small.safetensors"
    save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", ARCHITECTURES.values())
def test_architectures_are_told_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, device="meta")
    assert open_clip_files.architecture(model.state_dict(), "x.pt") == name


def test_vectors_are_open_clips(network: Any, file: Path) -> None:
    scorer = open_clip_files.load(file)
    assert (scorer.size, scorer.context) == (224, 77) and SMALL in scorer.name
    pictures = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    words = ["a plain red star", "two dogs"]
    with torch.no_grad():
        wanted = network.encode_image((pictures - mean) / std), network.encode_text(open_clip.tokenize(words))
    for got, expected in zip((scorer.image(pictures), scorer.text(words)), wanted):
        assert (got - expected).norm() < 0.01 * expected.norm()  # the file is in half precision
    leaf = pictures.requires_grad_()
    scorer.image(leaf).square().sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().amax() > 0


def test_activation(file: Path, tmp_path: Path) -> None:
    """OpenAI's files have no name of their own kind in them: the file's name or the user decides."""
    assert "quick gelu" in open_clip_files.load(file, "quick gelu").name
    assert "quick gelu" not in open_clip_files.load(file, "gelu").name
    named = tmp_path / "ViT-B-32-openai.safetensors"
    named.symlink_to(file)
    quick = open_clip_files.load(named)
    network = open_clip.create_model(f"{SMALL}-quickgelu", pretrained=None).eval()
    network.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    tokens = open_clip.tokenize(["a star"])
    assert "quick gelu" in quick.name
    with torch.no_grad():
        torch.testing.assert_close(quick.text(["a star"]), network.encode_text(tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name, quick",
    [
        ("vit_b_32-quickgelu-laion400m_e32-46683a32.pt", True), ("b32_400m.pt", True), ("l14_fullcc2.5b.pt", True),
        ("h14_fullcc2.5b.pt", True), ("G14_fullcc2.5b.pt", True), ("DFN2B-CLIP-ViT-L-14-39B.safetensors", False),
        ("DFN2B-CLIP-ViT-L-14.safetensors", True), ("vit_b_32-laion2b_e16-af8dbd0c.pth", False),
        ("HPS_v2.1_compressed.pt", False), ("my-metaclip-finetune.pt", True), ("anything.pt", False),
        ("DFN2B-CLIP-ViT-L-14/open_clip_pytorch_model.bin", True), ("openai/anything.pt", False),
        ("CLIP-ViT-H-14-laion2B-s32B-b79K/open_clip_model.safetensors", False),
        ("vit_base_patch32_clip_224.openai/open_clip_model.safetensors", True),
    ],
)  # fmt: skip
def test_activation_of_published_weights(name: str, quick: bool) -> None:
    assert open_clip_files.wants_quick_gelu({}, name) == quick


@pytest.mark.parametrize(
    "name, boxed",
    [
        ("HPS_v2_compressed.pt", True), ("HPS_v2.1_compressed.pt", True), ("HPSv2/open_clip_model.safetensors", True),
        ("HPSv2/open_clip_pytorch_model.bin", True), ("hpc.pth", False), ("hps_v1.pt", False), ("hps_v1.1.pt", False),
        ("HPSv1/pytorch_model.bin", False), ("hps/ViT-H-14.pt", False), ("anything.pt", False),
    ],
)  # fmt: skip
def test_hps_v2_sees_whole_pictures(name: str, boxed: bool) -> None:
    """Its own program puts them into black squares; that of v1 crops them, as CLIP's does."""
    assert open_clip_files.is_hps_v2(name) == boxed


@pytest.mark.parametrize(
    "score, text", [(0.27051, "0.2705"), (-1.5, "-1.5000"), (31.456, "31.46"), (-12.0, "-12.00"), (math.nan, "nan")]
)
def test_scores_are_written_so_that_they_can_be_told_apart(score: float, text: str) -> None:
    assert score_text(score) == text


def test_a_good_load_says_what_it_took(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = tmp_path / "HPSv2" / "open_clip_model.safetensors"
    named.parent.mkdir()
    named.symlink_to(file)
    with caplog.at_level(logging.INFO):
        assert open_clip_files.load(named).letterbox
    said = [record.message for record in caplog.records]
    assert any(SMALL in line and "gelu" in line for line in said)
    assert not any("randomly" in line for line in said), "nothing that says the opposite of what happened"


def test_longer_texts_are_counted(file: Path) -> None:
    scorer = open_clip_files.load(file)
    assert scorer.truncated_tokens("a star") == 0 and scorer.truncated_tokens("star " * 100) == 25


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil"),))


def test_bad_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken, code, other, part = (tmp_path / n for n in ("broken.safetensors", "code.pt", "other.pt", "part.pt"))
    broken.write_bytes(file.read_bytes()[:10_000])
    code.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))  # as torch writes it
    torch.save({"weight": torch.zeros(3)}, other)
    torch.save({k: v for k, v in load_file(file).items() if "proj" not in k}, part)
    listed, numbered = tmp_path / "listed.pt", tmp_path / "numbered.pt"
    torch.save([torch.zeros(3)] * 2, listed)
    torch.save({0: torch.zeros(3)}, numbered)
    pointer, page, foreign = (tmp_path / n for n in ("pointer.pt", "page.pt", "foreign.safetensors"))
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3944692325\n")
    page.write_text("<!DOCTYPE html><html>sign in</html>")
    save_file({"vision_model.embeddings.patch_embedding.weight": torch.zeros(8, 3, 14, 14)}, foreign)
    cures = (
        (broken, "damaged"), (code, "weights"), (other, "Known: ViT-B-32"), (part, "lacks"), (pointer, "Git LFS"),
        (page, "web page"), (foreign, "one tower"), (listed, "no tensors by name"), (numbered, "no tensors by name"),
    )  # fmt: skip
    for path, said in cures:
        with pytest.raises(UnknownScorer, match=said) as error:
            open_clip_files.load(path)
        assert "weights_only" not in str(error.value), "no advice to load code"
    assert not Path("evil").exists()


def test_without_open_clip_only_its_scorers_fail(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI does not need the package, so an installation that failed lacks it alone."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UnknownScorer, match="pip install open_clip_torch"):
        open_clip_files.load(file)
    tops = ast.parse(Path(open_clip_files.__file__).read_text(encoding="utf-8")).body
    assert not [node for node in tops if isinstance(node, ast.Import) and node.names[0].name == "open_clip"]


def test_clip_a_prefers_its_own_captions() -> None:
    scorer = demo_model.load_scorer()
    scenes = [sets.scene("tune", 50 + i, 2 + i % 3) for i in range(4)]
    pictures = torch.stack([torch.from_numpy(render(scene)[0]) for scene in scenes]).movedim(-1, 1).float() / 255
    images = scorer.image(torch.nn.functional.interpolate(pictures, size=(128, 128), mode="area"))
    texts = scorer.text([caption(scene) for scene in scenes])
    fit = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    assert fit.diagonal().min() > 0.8 and fit.fill_diagonal_(-1).max() < 0.5
