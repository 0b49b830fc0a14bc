"""The saliency nodes in ComfyUI: maps of pictures of any size, files that load and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import transalnet as reference

from fovea.guidance.spectral_residual import spectral_residual
from fovea.models.saliency import loader
from fovea.nodes.saliency import FOLDER, WITHOUT_WEIGHTS, FoveaLoadSaliencyModel, FoveaSaliencyMap


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the published names and random values."""
    path = tmp_path_factory.mktemp("saliency") / "TranSalNet_Res.pth"
    torch.save(reference.network("res").state_dict(), path)
    return path


def test_without_a_file() -> None:
    with torch.inference_mode():
        (model,) = FoveaLoadSaliencyModel.execute(WITHOUT_WEIGHTS).result
        pictures = torch.rand(2, 40, 60, 3)
        pictures[0] = 0.5
        mask, seen = FoveaSaliencyMap.execute(pictures, 0.65, True, model).result
    assert mask.shape == (2, 40, 60) and seen.shape == (2, 40, 60, 3)
    assert mask[0].eq(0).all() and mask[1].min() == 0 and mask[1].max() == 1
    torch.testing.assert_close(FoveaSaliencyMap.execute(pictures, 0.65, False).result[0],
                               spectral_residual(pictures.movedim(-1, 1)).clamp(0, 1))  # fmt: skip


def test_from_a_file(weights: Path, model_folder) -> None:
    model_folder(FOLDER, weights.parent)
    with torch.inference_mode():
        (model,) = FoveaLoadSaliencyModel.execute(weights.name).result
        pictures = torch.rand(2, 50, 70, 4)  # with an alpha channel
        mask, seen = FoveaSaliencyMap.execute(pictures, 0.5, True, model).result
        alone, _ = FoveaSaliencyMap.execute(pictures[1:], 0.5, True, model).result
    assert mask.shape == (2, 50, 70) and seen.shape == (2, 50, 70, 3) and torch.isfinite(mask).all()
    torch.testing.assert_close(mask[1:], alone)
    assert not any(p.is_inference() or p.requires_grad for p in model.patcher.model.parameters())


def test_what_comes_along_with_weights_is_not_offered(tmp_path: Path, model_folder) -> None:
    for name in ("TranSalNet_Res.pth", "README.md", "config.json", ".gitattributes"):
        (tmp_path / name).write_bytes(b"")
    model_folder(FOLDER, tmp_path)
    (file,) = FoveaLoadSaliencyModel.define_schema().inputs
    assert file.options == [WITHOUT_WEIGHTS, "TranSalNet_Res.pth"]


def test_bad_files(weights: Path, tmp_path: Path) -> None:
    broken, other, part = (tmp_path / name for name in ("broken.pth", "other.pth", "part.pth"))
    broken.write_bytes(weights.read_bytes()[:5000])
    torch.save({"conv1.weight": torch.zeros(2)}, other)
    state = torch.load(weights, weights_only=True)
    torch.save({key: value for key, value in state.items() if "conv7" not in key}, part)
    for path, said in ((broken, "damaged"), (other, "TranSalNet_Res.pth"), (part, "incomplete")):
        with pytest.raises(loader.UnknownSaliencyModel, match=said):
            loader.load(path)


def test_unknown_name() -> None:
    with pytest.raises(FileNotFoundError):
        FoveaLoadSaliencyModel.execute("../../etc/passwd")
