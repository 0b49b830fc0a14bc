"""What training leaves behind: checkpoints that go on, files that know what they are of, exports that are whole."""

from __future__ import annotations

import json
import shutil
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tools.comfy.comfyui import sha256_of
from tools.comfy.scratch import alone_in
from tools.errors import SetupError
from tools.shapesworld import data, export, stages, train_dual, train_experts, train_lora, train_style, train_unet
from tools.shapesworld import train as command
from tools.shapesworld.shipped_weights import DEMO, base_hash, training_state, weights_hash

shipped = pytest.mark.usefixtures("demo_model")
CPU = torch.device("cpu")


def run(work: Path, name: str = "net", minutes: float = 1e6, **changed: Any) -> stages.Run:
    """So many minutes that rates do not depend on how busy the machine is."""
    return stages.Run(name, work, CPU, minutes, **changed)


def trainer(of: stages.Run, device: str = "cpu") -> stages.Trainer:
    torch.manual_seed(0)
    return stages.Trainer(of, nn.ModuleDict({"net": nn.Linear(3, 2)}).to(device), 0.1, ema=0.9, warm_up=2)


def steps(own: stages.Trainer, count: int) -> stages.Trainer:
    for _ in range(count):
        own.backward(own.modules["net"](torch.ones(4, 3)).square().mean())
    return own


def told(own: stages.Trainer) -> dict[str, Any]:
    return {"model": own.modules.state_dict(), "ema": own.shadow, "optimizer": own.optimizer.state_dict()["state"]}


def left(work: Path, part: str, weights: dict[str, torch.Tensor], base: str = "") -> None:
    """A checkpoint, trained to its end."""
    work.mkdir(exist_ok=True)
    torch.save({"ema": weights, "finished": True, "base": base, "stage": part}, work / f"{part}.pt")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = steps(trainer(run(tmp_path, spent_before=30.0)), 2)
    first.save()
    second = trainer(run(tmp_path))
    assert second.step == 2 and second.run.spent_before >= 30
    torch.testing.assert_close(told(second), told(first))
    torch.testing.assert_close(told(steps(second, 1)), told(steps(first, 1)))
    assert second.step == 3
    anew = trainer(run(tmp_path / "other"))
    assert anew.step == 0 and not torch.equal(anew.shadow["net.weight"], second.shadow["net.weight"])


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # of that device
def test_averages_are_where_the_modules_are(tmp_path: Path) -> None:
    """The device without memory stands for a GPU: a checkpoint is read to the CPU."""
    steps(trainer(run(tmp_path)), 2).save()
    again = trainer(run(tmp_path), "meta")
    assert {value.device.type for value in again.shadow.values()} == {"meta"}


def test_noise_is_by_seed_and_step(tmp_path: Path) -> None:
    def drawn(seed: int = 0) -> torch.Tensor:
        trainer(run(tmp_path, seed=seed))
        return torch.rand(4)

    first = drawn()
    assert torch.equal(first, drawn()) and not torch.equal(first, drawn(seed=1))
    steps(trainer(run(tmp_path)), 2).save()
    assert not torch.equal(first, drawn()), "the noise of the first steps is not drawn again"


def test_an_interrupted_stage_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    trainer(run(tmp_path, stage="nets")).save()
    uses = (lambda: stages.finished(tmp_path, "net"), lambda: stages.averaged(run(tmp_path, "other"), "net"),
            lambda: export.shipped_state(tmp_path, "net"))  # fmt: skip
    for use in uses:
        with pytest.raises(SystemExit, match="--stage nets first"):
            use()
    assert not list(trainer(run(tmp_path, minutes=1e-9)).steps()), "its time is used"
    for use in uses:
        assert set(use()) == {"net.weight", "net.bias"}


def test_what_was_trained_on_top_of_other_weights_is_refused(tmp_path: Path) -> None:
    trainer(run(tmp_path, base="old")).save(finished=True)
    assert set(stages.finished(tmp_path, "net", "old")) == {"net.weight", "net.bias"}
    for part in ("steered", "expert_low", "dual", "dit"):
        shutil.copy(tmp_path / "net.pt", tmp_path / f"{part}.pt")
    for use in (
        lambda: trainer(run(tmp_path, base="new")),
        lambda: train_lora.file_of(tmp_path, "steered"),
        lambda: train_experts.trained(tmp_path, "expert_low"),
        lambda: train_dual.change(tmp_path),
        lambda: export.shipped_state(tmp_path, "dit"),
    ):
        with pytest.raises(SystemExit, match="take another --work"):
            use()


def test_a_part_of_a_stage_knows_what_it_is_of(tmp_path: Path) -> None:
    part = run(tmp_path, "experts", 80, shipped=DEMO, base="b").part("expert_low", 0.25, rate=0.3)
    assert (part.name, part.stage, part.base, part.minutes) == ("expert_low", "experts", "b", 20)
    assert part.shipped is None and part.rate == 0.3 and part.checkpoint == tmp_path / "expert_low.pt"
    assert run(tmp_path, "experts", 80, rate=0.5).part("expert_low", 0.25, rate=0.3).rate == 0.15, "--rate acts too"


def test_to_begin_anew_is_refused_where_nothing_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trainer(run(tmp_path)).save()
    with pytest.raises(SystemExit, match="leave out --fresh"):
        trainer(run(tmp_path, fresh=True))
    monkeypatch.setattr(command, "keep_memory", lambda: pytest.fail("it was taken"))
    for arguments in (["--stage", "unet", "--fresh"], ["--fresh", "--continue-shipped"]):
        monkeypatch.setattr(sys, "argv", ["train", "--work", str(tmp_path), *arguments])
        with pytest.raises(SystemExit):
            command.main()
        assert "--fresh is for one stage" in capsys.readouterr().err


def test_the_judge_of_style_continues_nothing_that_ships(tmp_path: Path) -> None:
    train_style.train(run(tmp_path, "style", 1e-9, shipped=DEMO, base="b"), None)
    assert not train_style.load(tmp_path).training


@pytest.fixture
def painters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads: started processes would not find the packages as tests/conftest.py loads them."""
    monkeypatch.setattr(data, "get_context", lambda _: SimpleNamespace(Pool=lambda _: ThreadPool(2)))
    monkeypatch.setattr(data, "PICTURES", 3)


def test_pictures_of_a_trial_do_not_stand_for_all(tmp_path: Path, painters: None) -> None:
    few = data.build(tmp_path, "train", 2)
    assert len(few) == len(data.build(tmp_path, "train", None)) == 2
    more = data.build(tmp_path, "train", 3)
    assert len(more) == len(more.pictures) == len(more.small) == len(more.labels) == 3
    assert np.array_equal(more.pictures[:2], few.pictures) and more.scenes[:2] == few.scenes
    assert len(data.build(tmp_path, "train", 1)) == 3, "what is there is not thrown away"
    assert set(files(tmp_path)) == {".lock", "pictures.npy", "small.npy", "labels.npy", "scenes.jsonl"}
    assert len(data.build(tmp_path / "new", "train", None)) == data.PICTURES


@pytest.mark.parametrize("torn", [lambda text: text[:-20], lambda text: text.splitlines(keepends=True)[0]])
def test_torn_scenes_are_painted_again(tmp_path: Path, painters: None, torn: Any) -> None:
    whole, path = data.build(tmp_path, "train", 3).scenes, tmp_path / "scenes.jsonl"
    path.write_text(torn(path.read_text()))
    assert data.build(tmp_path, "train", None).scenes == whole


def test_two_do_not_paint_at_once(tmp_path: Path, painters: None) -> None:
    with alone_in(tmp_path), pytest.raises(SetupError, match="another command"):
        data.build(tmp_path, "train", 2)
    data.build(tmp_path, "train", 2)
    with alone_in(tmp_path):
        assert len(data.build(tmp_path, "train", 2)) == 2, "what is there is only read"


@shipped
def test_latents_know_their_autoencoder_and_their_pictures(tmp_path: Path, painters: None) -> None:
    pictures, own = data.build(tmp_path / "data", "train", 2), tmp_path / "own"
    encoding, later = run(tmp_path, "latents", shipped=DEMO), run(tmp_path, "experts", base=base_hash())
    uses = (train_unet.encode, train_unet.encoded_pictures)
    train_unet.encode(encoding, pictures)
    weights = training_state(DEMO, "vae")
    known = json.loads((DEMO / "shapesworld.json").read_text())["latents"]
    assert json.loads((tmp_path / "latents.json").read_text()) == {**known, "vae": weights_hash(weights)}
    train_unet.encode(encoding, pictures)
    for each in (encoding, later):
        assert len(train_unet.encoded_pictures(each, pictures)[0]) == 2

    left(tmp_path, "vae", {k: v * 2 if k.startswith("vae.quant_conv") else v for k, v in weights.items()})
    for use in uses:
        with pytest.raises(SystemExit, match=r"not known to be of the autoencoder.* --work"):
            use(encoding, pictures)
    assert train_unet.encoded_pictures(later, pictures)[1] == known["scale_factor"], "of what ships"

    own.mkdir()
    shutil.move(tmp_path / "vae.pt", own)
    train_unet.encode(run(own, "latents", shipped=DEMO), pictures)
    spread = np.load(own / "latents.npy").astype(np.float32).std()
    assert json.loads((own / "latents.json").read_text())["scale_factor"] == pytest.approx(1 / spread, rel=1e-4)
    with pytest.raises(SystemExit, match="not known to be of the autoencoder"):
        train_unet.encoded_pictures(run(own, "experts", base=base_hash()), pictures)

    more = data.build(tmp_path / "data", "train", 3)
    for use in uses:
        with pytest.raises(SystemExit, match="of 2 pictures, and there are 3"):
            use(encoding, more)


def test_exported_weights_are_known_again() -> None:
    weights = {"vae.a": torch.rand(3), "vae.b": torch.rand(2, 2)}
    loaded = {key: value.half().float() for key, value in reversed(weights.items())}
    assert weights_hash(loaded) == weights_hash(weights) != weights_hash({**weights, "vae.a": torch.rand(3)})


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A folder of earlier exports."""
    folder = tmp_path / "demo"
    folder.mkdir()
    parts = {part: {f"shapesworld_{part}_1of2.safetensors": part} for part in ("clip_b", "vae")}
    for part in parts:
        (folder / f"shapesworld_{part}_1of2.safetensors").write_text(part)
    manifest = {"parts": parts, "latents": {"scale_factor": 2.0}, "picture_means": [[1.0]]}
    (folder / "shapesworld.json").write_text(json.dumps(manifest))
    return folder


def test_an_export_leaves_alone_what_it_does_not_write(tmp_path: Path, demo: Path) -> None:
    before = json.loads((demo / "shapesworld.json").read_text())
    left(tmp_path / "work", "clip_b", {"clip_b.weight": torch.ones(2)})
    (tmp_path / "work" / "latents.json").write_text(json.dumps({"vae": "x", "scale_factor": 3.0}))
    export.export(tmp_path / "work", demo)
    after, name = json.loads((demo / "shapesworld.json").read_text()), "shapesworld_clip_b.safetensors"
    assert all(after[key] == before[key] for key in ("latents", "picture_means"))
    assert after["parts"] == {**before["parts"], "clip_b": {name: sha256_of(demo / name)}}
    assert set(files(demo)) == {"shapesworld.json", name, "shapesworld_vae_1of2.safetensors"}


def test_an_export_that_lacks_something_touches_nothing(tmp_path: Path, demo: Path) -> None:
    work, weights, before = tmp_path / "work", {"vae.x": torch.ones(2)}, files(demo)
    left(work, "clip_b", {"clip_b.weight": torch.ones(2)})
    left(work, "vae", weights)
    for facts in (None, {"vae": "of another", "scale_factor": 3.0}):
        if facts:
            (work / "latents.json").write_text(json.dumps(facts))
        with pytest.raises(SystemExit, match=r"latents\.json must be of the autoencoder"):
            export.export(work, demo)
        assert files(demo) == before
    (work / "latents.json").write_text(json.dumps({"vae": weights_hash(weights), "scale_factor": 3.0}))
    (work / "picture_means.json").write_text("[[4.0]]")
    export.export(work, demo)
    after = json.loads((demo / "shapesworld.json").read_text())
    assert after["latents"] == {"scale_factor": 3.0} and after["picture_means"] == [[4.0]]
    assert set(files(demo)) == {"shapesworld.json", *(f"shapesworld_{part}.safetensors" for part in after["parts"])}


@shipped
def test_a_change_is_exported_beside_its_own_generator_only(tmp_path: Path) -> None:
    manifest, folder = json.loads((DEMO / "shapesworld.json").read_text()), tmp_path / "demo"
    sizes = {"weight.original": (2, 3), "weight.0.up": (2, train_lora.RANK), "weight.0.down": (train_lora.RANK, 3)}
    weights = {f"unet.out.parametrizations.{key}": torch.ones(size) for key, size in sizes.items()}
    left(tmp_path / "work", "steered", weights, base_hash())
    folder.mkdir()
    early = {**manifest, "parts": {**manifest["parts"], "unet": {"shapesworld_unet.safetensors": "early"}}}
    (folder / "shapesworld.json").write_text(json.dumps(early))
    before = files(folder)
    with pytest.raises(SystemExit, match="would not fit the generator"):
        export.export(tmp_path / "work", folder, ("steered",))
    assert files(folder) == before
    (folder / "shapesworld.json").write_text(json.dumps(manifest))
    export.export(tmp_path / "work", folder, ("steered",))
    after = json.loads((folder / "shapesworld.json").read_text())
    assert after["trained_on"] == manifest["trained_on"] and after["parts"]["steered"] != manifest["parts"]["steered"]


def test_a_folder_to_export_to_keeps_its_earlier_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ships = tmp_path / "ships"
    ships.mkdir()
    for name in ("shapesworld.json", "shapesworld_unet.safetensors"):
        (ships / name).write_text("shipped")
    monkeypatch.setattr(export, "DEMO", ships)
    monkeypatch.chdir(tmp_path)
    folder = export.prepared(Path("mine"))
    assert folder == tmp_path.resolve() / "mine" and files(folder) == files(ships)
    (folder / "shapesworld_unet.safetensors").write_text("trained")
    assert files(export.prepared(Path("mine")))["shapesworld_unet.safetensors"] == b"trained"
    assert export.prepared(Path("ships")) == tmp_path.resolve() / "ships"
