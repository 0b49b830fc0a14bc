"""TranSalNet put together from torchvision's encoders and torch's own layers, as its authors describe it."""

from __future__ import annotations

import math

import torch
import torchvision
from torch import Tensor, nn


def named(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def transformer(n_in: int, tokens: int, width: int) -> nn.Module:
    layers = nn.ModuleList(
        named(
            ffn_norm=nn.LayerNorm(width, eps=1e-6),
            ffn=named(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
            attn=named(**{name: nn.Linear(width, width) for name in ("query", "key", "value", "out")}),
            attention_norm=nn.LayerNorm(width, eps=1e-6),
        )
        for _ in range(2)
    )
    module = named(
        patch_embeddings=nn.Conv2d(n_in, width, 1),
        transformer_encoder=named(layer=layers, encoder_norm=nn.LayerNorm(width, eps=1e-6)),
    )
    module.register_parameter("position_embeddings", nn.Parameter(torch.zeros(1, tokens, width)))
    return module


def network(kind: str) -> nn.Module:
    """With the published names: encoder.encoder.N..., decoder.conv1..., decoder.TransEncoder1..."""
    if kind == "res":
        parts, widths = list(torchvision.models.resnet50(weights=None).children())[:8], (512, 1024, 2048)
    else:
        features = next(iter(torchvision.models.densenet161(weights=None).children()))
        parts, widths = list(features.children())[:-1], (768, 2112, 2208)
    steps = ((768, 768), (768, 512), (512, 256), (256, 128), (128, 64), (64, 32), (32, 1))
    decoder = {f"conv{i}": nn.Conv2d(a, b, 3, padding=1) for i, (a, b) in enumerate(steps, 1)}
    decoder.update({f"batchnorm{i}": nn.BatchNorm2d(b) for i, (_, b) in enumerate(steps[:-1], 1)})
    decoder["TransEncoder1"] = transformer(widths[2], 9 * 12, 768)
    decoder["TransEncoder2"] = transformer(widths[1], 18 * 24, 768)
    decoder["TransEncoder3"] = transformer(widths[0], 36 * 48, 512)
    return named(encoder=named(encoder=nn.ModuleList(parts)), decoder=named(**decoder))


def transformed(module: nn.Module, x: Tensor, heads: int) -> Tensor:
    batch, _, rows, columns = x.shape
    x = module.patch_embeddings(x).flatten(2).transpose(1, 2) + module.position_embeddings
    for layer in module.transformer_encoder.layer:
        h, split = layer.attention_norm(x), lambda t: t.reshape(batch, rows * columns, heads, -1).transpose(1, 2)
        q, k, v = (split(getattr(layer.attn, name)(h)) for name in ("query", "key", "value"))
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + layer.attn.out((weights @ v).transpose(1, 2).flatten(2))
        x = x + layer.ffn.fc2(nn.functional.gelu(layer.ffn.fc1(layer.ffn_norm(x))))
    x = module.transformer_encoder.encoder_norm(x)
    return x.transpose(1, 2).reshape(batch, -1, rows, columns)


def features(net: nn.Module, kind: str, x: Tensor) -> list[Tensor]:
    kept = []
    for number, part in enumerate(net.encoder.encoder):
        x = part(x)
        if number in ((5, 6, 7) if kind == "res" else (6, 8, 10)):
            kept.append(x.clone())
    return kept


def forward(net: nn.Module, kind: str, x: Tensor) -> Tensor:
    x3, x4, x5 = features(net, kind, x)
    d, up = net.decoder, nn.Upsample(scale_factor=2)
    x = up(d.batchnorm1(d.conv1(transformed(d.TransEncoder1, x5, 12))).relu())
    x = (x * transformed(d.TransEncoder2, x4, 12)).relu()
    x = up(d.batchnorm2(d.conv2(x)).relu())
    x = (x * transformed(d.TransEncoder3, x3, 8)).relu()
    x = up(d.batchnorm3(d.conv3(x)).relu())
    x = up(d.batchnorm4(d.conv4(x)).relu())
    x = d.batchnorm5(d.conv5(x)).relu()
    x = d.batchnorm6(d.conv6(up(x))).relu()
    return d.conv7(x).sigmoid()
