"""The generator: a text-conditioned UNet on latents, v-prediction on the Stable Diffusion noise schedule."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import train_clip, train_vae, words
from .data import Dataset
from .shipped_weights import DEMO, training_state, weights_hash
from .stages import Run, Trainer, averaged, initialize
from .world import BACKGROUND_NAMES, Scene, caption

BATCH = 32
EMPTY_CAPTIONS = 0.1
STEPS = 1000
MEANS_OF, MEANS_OF_EACH = 512, 4  # pictures among which means of pictures are taken, and how many of each background
# Drawn more often, because they show plainly which word is which shape; painted are as many of each.
SHARES = {1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1}


def encode(run: Run, data: Dataset) -> None:
    """Encode every training picture once; writes latents.npy [N, 4, 32, 32] fp16, their statistics and some means."""
    path = run.work / "latents.npy"
    if path.exists():
        encoded_pictures(run, data)  # or they are not what is asked for
        return
    model, weights = nn.ModuleDict({"vae": train_vae.build(0)}), averaged(run, "vae")
    model.load_state_dict(weights)
    # bf16, channels last and four at a time: ten times the speed of autocast on large batches on a CPU.
    vae = model["vae"].eval().to(run.device, torch.bfloat16).to(memory_format=torch.channels_last)
    batch = 4 if run.device.type == "cpu" else 64
    out = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.float16, (len(data), 4, 32, 32))
    seen, colors = [], []
    for i in tqdm(range(0, len(data), batch), desc="encoding", mininterval=5):
        pictures = torch.from_numpy(np.array(data.pictures[i : i + batch])).to(run.device).permute(0, 3, 1, 2)
        with torch.no_grad():
            out[i : i + batch] = vae.encode((pictures.float() / 127.5 - 1).bfloat16()).float().cpu().numpy()
        if i % (batch * 20) == 0:
            seen.append(out[i : i + batch].astype(np.float32))
            colors.append(torch.nn.functional.avg_pool2d(pictures.float() / 255, 8).cpu().numpy())
    if run.shipped is None or (run.work / "vae.pt").exists():
        facts = statistics(np.concatenate(seen), np.concatenate(colors))
    else:  # the shipped generator knows latents of the shipped autoencoder at the scale it was trained with
        facts = json.loads((run.shipped / "shapesworld.json").read_text())["latents"]
    means = picture_means(out[:MEANS_OF], data, facts["scale_factor"])
    (run.work / "picture_means.json").write_text(json.dumps(means))
    (run.work / "latents.json").write_text(json.dumps({"vae": weights_hash(weights), **facts}, indent=1))
    out.flush()
    path.with_suffix(".part").rename(path)


def statistics(latents: np.ndarray, colors: np.ndarray) -> dict:
    """Scale to unit variance, and the linear map latent -> RGB that ComfyUI uses for step previews."""
    scale = 1 / latents.std()
    x = np.moveaxis(latents * scale, 1, -1).reshape(-1, 4)
    y = np.moveaxis(colors, 1, -1).reshape(-1, 3) * 2 - 1
    factors = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    return {
        "scale_factor": float(scale),
        "rgb_factors": factors[:4].tolist(),
        "rgb_bias": factors[4].tolist(),
        "channel_mean": x.mean(0).tolist(),
        "channel_std": x.std(0).tolist(),
    }


def picture_means(latents: np.ndarray, data: Dataset, scale: float) -> list[list[float]]:
    """The mean latent, a value per channel, of the first pictures of every background, of each as many."""
    grounds = [[i for i in range(len(latents)) if data.scenes[i].background == name] for name in BACKGROUND_NAMES]
    chosen = [i for same in zip(*(own[:MEANS_OF_EACH] for own in grounds)) for i in same]
    found = latents[chosen].astype(np.float64).mean((2, 3)) * scale
    return found.round(3).tolist()


def text_tower(run: Run, state: dict[str, Tensor] | None = None) -> nn.ModuleDict:
    """CLIP A, frozen: as trained, or of these weights."""
    modules = train_clip.build_a(0)
    state = averaged(run, "clip_a") if state is None else state
    modules.load_state_dict(state, strict=False)  # the shipped tower has no pointing head
    return modules.to(run.device).eval().requires_grad_(False)


def shipped_tower(run: Run) -> nn.ModuleDict:
    """The CLIP A that ships: with it the generator was trained that is changed, or that teaches."""
    return text_tower(run, training_state(DEMO, "clip_a"))


def contexts(tower: nn.ModuleDict, captions: list[str], device: torch.device) -> Tensor:
    """What ComfyUI's SDClipModel gives the UNet for these captions: [B, 77, 256]."""
    from fovea.models.shapesworld import evaluators

    ids = np.stack([words.encode(c) for c in captions])
    rows = torch.from_numpy(words.rows(ids)).to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        hidden, _ = evaluators.clip_a_text_forward(
            tower["text"], tower["table"](rows), torch.from_numpy(words.ends(ids)).to(device)
        )
    return hidden.float()


def build(seed: int) -> nn.Module:
    """The UNet with zeroed residual ends, so that it starts as the identity it deviates from."""
    from fovea.models.shapesworld import generator

    model = initialize(generator.unet(), seed)
    for name, p in model.named_parameters():
        if name.endswith(("out_layers.3.weight", "proj_out.weight")) or name == "out.2.weight":
            nn.init.zeros_(p)
    return model


def alphas_bar(device: torch.device) -> Tensor:
    """The noise schedule that ComfyUI samples with: [1000]."""
    from comfy.model_sampling import ModelSamplingDiscrete

    return (1 / (1 + ModelSamplingDiscrete().sigmas.double() ** 2)).float().to(device)


def noise_levels(count: int) -> Tensor:
    """Timesteps [count], more of the noisy ones, where background, places and shapes are decided.

    One draw per stratum: nearly the same levels in every batch, far less variance than independent draws.
    """
    u = (torch.arange(count) + torch.rand(count)) / count
    return (u**0.6 * STEPS).long().clamp(0, STEPS - 1)


def train(run: Run, data: Dataset) -> None:
    fit(run, data, nn.ModuleDict({"unet": build(run.seed + 4)}), noise_levels, ema=0.9993)


Condition = Callable[[list[str], np.ndarray, Tensor, np.random.Generator], dict[str, Any]]


def read_by(tower: nn.ModuleDict, device: torch.device) -> Condition:
    """The generator is given CLIP A's tokens."""
    return lambda captions, _index, _t, _rng: {"context": contexts(tower, captions, device)}


def encoded_pictures(run: Run, data: Dataset) -> tuple[np.ndarray, float, np.ndarray]:
    """Latents [n, 4, 32, 32] of the pictures, what they are multiplied with, and how often each is drawn [n].

    Raises SystemExit where they are of fewer pictures, or of another autoencoder than the stage stands on."""
    path = run.work / "latents.npy"
    if not path.exists():
        raise SystemExit(f"stage {run.name} needs encoded pictures: --stage latents first (with --continue-shipped)")
    facts, latents = json.loads((run.work / "latents.json").read_text()), np.load(path, mmap_mode="r")
    own = run.base and (run.work / "vae.pt").exists()  # with which --stage latents would encode again
    cure = "take another --work" if own else "delete it for --stage latents to encode anew, or take another --work"
    if facts.get("vae") != weights_hash(training_state(DEMO, "vae") if run.base else averaged(run, "vae")):
        raise SystemExit(f"{path} is not known to be of the autoencoder that stage {run.name} stands on: {cure}")
    if len(latents) != len(data):
        raise SystemExit(f"{path} is of {len(latents)} pictures, and there are {len(data)}: {cure}")
    shares = np.array([SHARES[len(scene.things)] for scene in data.scenes])
    return latents, facts["scale_factor"], shares / shares.sum()


def clean(latents: np.ndarray, index: np.ndarray, device: torch.device) -> Tensor:
    """A batch of latents, read from the disk one by one."""
    return torch.from_numpy(np.stack([latents[i] for i in index])).to(device).float()


def fit(
    run: Run, data: Dataset, modules: nn.ModuleDict, levels: Callable[[int], Tensor], ema: float,
    condition: Condition | None = None, told: Callable[[Scene], Scene | None] = lambda scene: scene,
    batch: int = BATCH, warm_up: int = 200,
) -> None:  # fmt: skip
    """Train modules["unet"], and what else of them needs gradients. levels: timesteps [n] for a batch of n. condition:
    what the generator is given for captions, pictures of these numbers and timesteps; CLIP A's tokens if there is none.
    told: the scene that a picture's caption tells of; None where it is not drawn."""
    latents, scale, shares = encoded_pictures(run, data)
    scenes = [told(scene) for scene in data.scenes]
    shares = shares * np.array([scene is not None for scene in scenes])
    shares = shares / shares.sum()
    condition = condition or read_by(text_tower(run), run.device)
    trainer = Trainer(run, modules.to(run.device), lr=8e-4, ema=ema, weight_decay=0.01, warm_up=warm_up)
    forward = torch.compile(modules["unet"]) if run.compiled else modules["unet"]
    abar = alphas_bar(run.device)
    rng = np.random.default_rng(run.seed + 41 + trainer.step)
    average = None
    for step in trainer.steps():
        index = rng.choice(len(latents), size=batch, p=shares)
        captions = ["" if rng.random() < EMPTY_CAPTIONS else caption(scenes[i], rng) for i in index]
        x0 = clean(latents, index, run.device) * scale
        t = levels(batch).to(run.device)
        a = abar[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        target = a.sqrt() * noise - (1 - a).sqrt() * x0
        with torch.autocast(run.device.type, torch.bfloat16):
            out = forward(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, **condition(captions, index, t, rng))
        loss = (out.float() - target).square().mean()
        trainer.backward(loss)
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 0:
            run.log(step=step, samples=(step + 1) * batch, loss=round(average, 5))
