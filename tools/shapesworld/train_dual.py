"""The generator with two text encoders and a style vector (eDiff-I in miniature): low-rank changes of the shipped one.

First a small T5 learns to say with its tokens what CLIP A's say of the same words: the generator understands them from
the start, and what CLIP A's training cost is not spent again. Then T5 and generator are trained together on pictures,
and CLIP, T5 and style are left out each by itself, so that every subset of them can be sampled. Last they follow the
shipped generator: it is told a style in words, they are shown another picture in that style and predict the same.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import tqdm

from . import t5_words, words
from .data import Dataset
from .shipped_weights import base_hash
from .stages import Run, Trainer, averaged, finished, initialize
from .train_experts import base
from .train_lora import CHANGE, LowRank
from .train_unet import (
    BATCH,
    EMPTY_CAPTIONS,
    alphas_bar,
    clean,
    contexts,
    encoded_pictures,
    fit,
    noise_levels,
    shipped_tower,
)
from .world import STYLES, caption

RANK = 6
SHARES = {"t5": 0.1, "pictures": 0.3, "style": 0.6}  # of the stage's minutes
LEFT_OUT = {"clip": 0.25, "t5": 0.25, "style": 0.35}
LEFT_OUT_LAST = {"clip": 0.1, "t5": 0.1, "style": 0.1}  # where style is what is learnt
UNTOLD = 0.85  # of captions with a style vector do not name the style: else nothing is left for the vector to tell


STYLE_WORDS = re.compile(rf", ({'|'.join(STYLES)}) style$")


class T5(nn.Module):
    """ComfyUI's T5 over a compact token table, and the projection to CLIP A's width."""

    def __init__(self) -> None:
        super().__init__()
        import comfy.text_encoders.t5
        from comfy.ops import disable_weight_init as operations

        from fovea.models.shapesworld import dual_encoder, generator

        config = {**dual_encoder.T5_CONFIG, "vocab_size": len(t5_words.known_ids()) + 1}
        self.t5 = comfy.text_encoders.t5.T5(config, torch.float32, "cpu", operations)
        self.projection = operations.Linear(config["d_model"], generator.TEXT_CONFIG["hidden_size"])

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the table [B, 77] -> [B, 77, 256]. ComfyUI's own forward adds in place, which autograd refuses."""
        from comfy.ldm.modules.attention import attention_pytorch

        x, bias = self.t5.shared(rows), None
        for block in self.t5.encoder.block:
            attend, feed = block.layer
            out, bias = attend.SelfAttention(
                attend.layer_norm(x), past_bias=bias, optimized_attention=attention_pytorch
            )
            x = x + out
            x = x + feed.DenseReluDense(feed.layer_norm(x))
        return self.projection(self.t5.encoder.final_layer_norm(x))


def build_t5(seed: int) -> T5:
    model = initialize(T5(), seed)
    for name, p in model.named_parameters():
        if name.endswith("layer_norm.weight"):
            nn.init.ones_(p)  # ComfyUI's T5 brings a norm of its own
        elif name == "t5.shared.weight":
            nn.init.normal_(p, std=1.0)
    return model


def build(seed: int) -> nn.Module:
    """The shipped generator, frozen, with low-rank changes and a style embedding that are trained."""
    from fovea.models.shapesworld import dual_encoder

    model = initialize(dual_encoder.unet(), seed)
    nn.init.zeros_(model.label_emb[0][2].weight)
    missing, unexpected = model.load_state_dict(base(), strict=False)
    if unexpected or not all(key.startswith("label_emb.") for key in missing):
        raise SystemExit(f"the shipped generator has another architecture: {missing}, {unexpected}")
    for name, module in list(model.named_modules()):
        own = name.startswith("label_emb")
        for p in module.parameters(recurse=False):
            p.requires_grad_(own)
        if not own and isinstance(module, (nn.Linear, nn.Conv2d)):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, RANK))
    return model


def same_words(text: str) -> np.ndarray:
    """For every T5 position [77] the position of CLIP's token that says the same: words, the end, and what follows."""
    found, at = [], 0
    for chunk in text.split():
        pieces = [len(words.word_ids(piece)) for piece in words.split(chunk)]
        found += [at + pieces[0]] * len(t5_words.chunk_ids(chunk))
        at += sum(pieces)
    rest = at + 1 + np.arange(t5_words.LONGEST - len(found))
    return np.concatenate([np.array(found, int), rest]).clip(0, words.LENGTH - 1)[: t5_words.LONGEST]


def t5_rows(captions: list[str], device: torch.device) -> Tensor:
    return torch.from_numpy(t5_words.rows(np.stack([t5_words.encode(text) for text in captions]))).to(device)


def teach(run: Run, data: Dataset) -> None:
    """T5 learns CLIP A's hidden states of the same words."""
    model, tower = build_t5(run.seed + 8).to(run.device), shipped_tower(run)
    trainer = Trainer(run, nn.ModuleDict({"text": model}), lr=4e-3, ema=0.99)
    rng = np.random.default_rng(run.seed + 81 + trainer.step)
    for step in trainer.steps():
        captions = [caption(data.scenes[i], rng) for i in rng.integers(len(data), size=64)]
        captions[0] = ""
        target = contexts(tower, captions, run.device)
        places = torch.from_numpy(np.stack([same_words(text) for text in captions])).to(run.device)
        target = target.gather(1, places[..., None].expand_as(target))
        rows = t5_rows(captions, run.device)
        weight = torch.where(rows == t5_words.PAD_ROW, 0.2, 1.0)[..., None]
        rows = torch.where(torch.rand(rows.shape, device=run.device) < 0.005, 0, rows)  # now and then an unknown word
        with torch.autocast(run.device.type, torch.bfloat16):
            out = model(rows)
        loss = ((out.float() - target).square() * weight).mean() / (target.square() * weight).mean()
        trainer.backward(loss)
        if step % 50 == 0:
            run.log(step=step, unexplained=round(loss.item(), 4))


@torch.no_grad()
def styles(run: Run, data: Dataset) -> np.ndarray:
    """The shipped CLIP A's vectors of all training pictures as the generator takes them, [N, 256] fp16; kept."""
    from fovea.models.shapesworld import dual_encoder
    from fovea.models.shapesworld import loader as demo_model

    path = run.work / f"styles_{run.base}_{len(data)}.npy"
    if not path.exists():
        tower, found = demo_model.load_clip_train_image().to(run.device), []
        for i in tqdm(range(0, len(data), 64), desc="styles", mininterval=5):
            pictures = torch.from_numpy(np.array(data.small[i : i + 64])).to(run.device).permute(0, 3, 1, 2)
            found.append(dual_encoder.style_vector(tower(pictures.float() / 255)[0]).half().cpu().numpy())
        temporary = path.with_suffix(".part.npy")
        np.save(temporary, np.concatenate(found))
        temporary.rename(path)
    return np.load(path)


def tell_styles(unet: nn.Module, data: Dataset, vectors: np.ndarray, seed: int, steps: int = 1500) -> float:
    """The first layers of the style embedding learn to tell the four styles; of its last only four directions are left,
    in random places, for the generator to learn. -> share of unseen pictures whose style it tells."""
    first, _, last = unet.label_emb[0]
    torch.manual_seed(seed)
    own = torch.tensor([STYLES.index(scene.style) for scene in data.scenes[: len(vectors)]])
    given = torch.from_numpy(np.asarray(vectors, np.float32))
    told = nn.Linear(first.out_features, len(STYLES))
    layers = nn.Sequential(nn.Linear(first.in_features, first.out_features), nn.SiLU(), told)
    optimizer, unseen = torch.optim.AdamW(layers.parameters(), 1e-3, weight_decay=0.05), len(given) // 20
    for _ in tqdm(range(steps), desc="styles told", mininterval=5):
        some = torch.randint(unseen, len(given), (512,))
        loss = nn.functional.cross_entropy(layers(given[some]), own[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = layers(given[:unseen])
        told_right = float((logits.argmax(1) == own[:unseen]).float().mean())
        places = nn.init.orthogonal_(torch.empty(last.out_features, len(STYLES)))
        places *= 0.3 * last.out_features**0.5 / logits.std()  # of a size with the time's embedding
        first.load_state_dict(layers[0].state_dict())
        last.weight.copy_(places @ told.weight)
        last.bias.copy_(places @ told.bias)
    return told_right


def train(run: Run, data: Dataset) -> None:
    teach(run.part("t5", SHARES["t5"]), data)
    text = build_t5(run.seed + 8)
    text.load_state_dict({k.removeprefix("text."): v for k, v in averaged(run, "t5").items()})
    tower, vectors = shipped_tower(run), styles(run, data)
    text.to(run.device)

    def condition(captions: list[str], index: np.ndarray, _t: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        kept = {name: rng.random(len(captions)) >= share for name, share in LEFT_OUT.items()}
        untold = kept["style"] & (rng.random(len(captions)) < UNTOLD)
        captions = [STYLE_WORDS.sub("", text) if hide else text for text, hide in zip(captions, untold)]
        read = {name: [t if keep else "" for t, keep in zip(captions, kept[name])] for name in ("clip", "t5")}
        style = torch.from_numpy(vectors[index].astype(np.float32) * kept["style"][:, None]).to(run.device)
        both = [contexts(tower, read["clip"], run.device), text(t5_rows(read["t5"], run.device))]
        return {"context": torch.cat(both, dim=1), "y": style}

    modules = nn.ModuleDict({"unet": build(run.seed + 9), "text": text})
    pictures = run.part("dual_pictures", SHARES["pictures"])
    fit(pictures, data, modules, noise_levels, ema=0.99, condition=condition)
    modules.load_state_dict(averaged(run, "dual_pictures"))
    right = tell_styles(modules["unet"], data, vectors, run.seed + 10)
    print(f"styles told of unseen pictures: {100 * right:.1f} %", flush=True)
    follow(run.part("dual", SHARES["style"]), data, modules, tower, vectors)


def follow(run: Run, data: Dataset, modules: nn.ModuleDict, tower: nn.ModuleDict, vectors: np.ndarray) -> None:
    """Predict what the shipped generator does when it is told the style, shown a picture of that style instead.

    That picture is drawn from all of the style, hardly ever the same, so only its style helps; half of the noisy
    pictures have another style than the one asked for, as those in the middle of sampling do.
    """
    from fovea.models.shapesworld import generator

    teacher = generator.unet()
    teacher.load_state_dict(base())
    teacher.to(run.device).eval().requires_grad_(False)
    trainer = Trainer(run, modules.to(run.device), lr=8e-4, ema=0.99)
    latents, scale, shares = encoded_pictures(run, data)
    own = np.array([STYLES.index(scene.style) for scene in data.scenes])
    of_style = [np.flatnonzero(own == k) for k in range(len(STYLES))]
    abar, rng = alphas_bar(run.device), np.random.default_rng(run.seed + 82 + trainer.step)
    for step in trainer.steps():
        index = rng.choice(len(latents), size=BATCH, p=shares)
        asked = np.where(rng.random(BATCH) < 0.5, own[index], rng.integers(len(STYLES), size=BATCH))
        kept = {name: rng.random(BATCH) >= share for name, share in LEFT_OUT_LAST.items()}
        kept["text"] = (kept["clip"] | kept["t5"]) & (rng.random(BATCH) >= EMPTY_CAPTIONS)
        shown = kept["style"] & kept["text"]
        captions = [caption(data.scenes[i], rng) for i in index]
        plain = [STYLE_WORDS.sub("", text) if keep else "" for text, keep in zip(captions, kept["text"])]
        named = [f"{text}, {STYLES[k]} style" if text else "" for text, k in zip(plain, asked)]
        told = rng.random(BATCH) < np.where(shown, 1 - UNTOLD, 0.5)
        said = [name if tell else text for text, name, tell in zip(plain, named, told)]
        taught = [name if tell or show else text for text, name, tell, show in zip(plain, named, told, shown)]
        references = np.array([rng.choice(of_style[k]) for k in asked])
        style = torch.from_numpy(vectors[references].astype(np.float32) * shown[:, None]).to(run.device)
        x0 = clean(latents, index, run.device) * scale
        t = noise_levels(BATCH).to(run.device)
        a = abar[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * x0 + (1 - a).sqrt() * torch.randn_like(x0)
        read = {name: [text if keep else "" for text, keep in zip(said, kept[name])] for name in ("clip", "t5")}
        with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16):
            target = teacher(noisy, t, context=contexts(tower, taught, run.device)).float()
        with torch.autocast(run.device.type, torch.bfloat16):
            words_of_t5 = modules["text"](t5_rows(read["t5"], run.device))
            context = torch.cat([contexts(tower, read["clip"], run.device), words_of_t5], dim=1)
            out = modules["unet"](noisy, t, context=context, y=style)
        off = (out.float() - target).square().mean((1, 2, 3))
        trainer.backward(off.mean())
        if step % 50 == 0:
            with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16):
                blind = modules["unet"](noisy, t, context=context, y=torch.zeros_like(style))
            alone = torch.from_numpy(shown & ~told).to(run.device)
            unseen = (blind.float() - target).square().mean((1, 2, 3))[alone].mean()
            run.log(step=step, loss=round(off.mean().item(), 5), to_blind=round((off[alone].mean() / unseen).item(), 3))


def change(work: Path) -> dict[str, Tensor]:
    """What ships, fp16: the generator's change under the names that ComfyUI's LoRA loader reads, its style embedding,
    T5 and the projection."""
    out = {}
    for key, value in finished(work, "dual", base_hash()).items():
        if key.startswith("text."):
            out[key.removeprefix("text.")] = value
        elif key.startswith("unet.label_emb."):
            out[key.replace("unet.", "diffusion_model.", 1)] = value
        elif CHANGE in key:
            layer, part = key.replace("unet.", "diffusion_model.", 1).split(CHANGE)
            out[f"{layer}.lora_{part}.weight"] = value.flatten(1)
    return {key: value.half().contiguous() for key, value in out.items()}
