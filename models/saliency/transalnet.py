"""TranSalNet (Lou et al., arXiv 2110.03593): where people look in a picture, from a convolutional encoder and three
transformer encoders. Module names are those of the published state dicts, so that these load as they are.
"""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

ROWS, COLUMNS = 288, 384  # the learned position tables allow no other size
BORDER = 1 / 255  # of the letterbox, as published
WIDTHS = {"res": (512, 1024, 2048), "dense": (768, 2112, 2208)}  # channels at strides 8, 16 and 32


class Bottleneck(nn.Module):
    """ResNet's block; the 3x3 convolution has the stride."""

    def __init__(self, n_in: int, width: int, stride: int, operations: Any) -> None:
        super().__init__()
        n_out = 4 * width
        self.conv1 = operations.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = operations.BatchNorm2d(width)
        self.conv2 = operations.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = operations.BatchNorm2d(width)
        self.conv3 = operations.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = operations.BatchNorm2d(n_out)
        self.downsample = None
        if stride > 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                operations.Conv2d(n_in, n_out, 1, stride, bias=False), operations.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


def resnet50(operations: Any) -> nn.ModuleList:
    """ResNet-50 without its head, as a list of its parts."""

    def stage(n_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        first = Bottleneck(n_in, width, stride, operations)
        return nn.Sequential(first, *(Bottleneck(4 * width, width, 1, operations) for _ in range(blocks - 1)))

    return nn.ModuleList(
        [
            operations.Conv2d(3, 64, 7, 2, 3, bias=False), operations.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            stage(64, 64, 3, 1), stage(256, 128, 4, 2), stage(512, 256, 6, 2), stage(1024, 512, 3, 2),
        ]
    )  # fmt: skip


class DenseLayer(nn.Module):
    """DenseNet's layer: adds `growth` channels to those before."""

    def __init__(self, n_in: int, growth: int, operations: Any) -> None:
        super().__init__()
        self.norm1 = operations.BatchNorm2d(n_in)
        self.conv1 = operations.Conv2d(n_in, 4 * growth, 1, bias=False)
        self.norm2 = operations.BatchNorm2d(4 * growth)
        self.conv2 = operations.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(h)))], dim=1)


class Transition(nn.Module):
    """Between two of DenseNet's blocks: half the channels, half the size."""

    def __init__(self, n_in: int, operations: Any) -> None:
        super().__init__()
        self.norm = operations.BatchNorm2d(n_in)
        self.conv = operations.Conv2d(n_in, n_in // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


def densenet161(operations: Any) -> nn.ModuleList:
    """DenseNet-161's features without the last norm, as a list of its parts."""
    growth, channels = 48, 96
    parts: list[nn.Module] = [
        operations.Conv2d(3, channels, 7, 2, 3, bias=False), operations.BatchNorm2d(channels), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    for number, layers in enumerate((6, 12, 36, 24)):
        if number:
            parts.append(Transition(channels, operations))
            channels //= 2
        block = nn.Sequential()
        for i in range(layers):
            block.add_module(f"denselayer{i + 1}", DenseLayer(channels, growth, operations))
            channels += growth
        parts.append(block)
    return nn.ModuleList(parts)


class Encoder(nn.Module):
    """The convolutional part: pictures [n, 3, 288, 384] -> maps at strides 8, 16 and 32, in this order."""

    def __init__(self, kind: str, operations: Any) -> None:
        super().__init__()
        self.encoder = resnet50(operations) if kind == "res" else densenet161(operations)
        self.kept = (5, 6, 7) if kind == "res" else (6, 8, 10)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for number, part in enumerate(self.encoder):
            x = part(x)
            if number in self.kept:
                features.append(x)
        return features


class Attention(nn.Module):
    """Self-attention with several heads: [n, tokens, width] -> the same shape."""

    def __init__(self, width: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (operations.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", h=self.heads) for f in (self.query, self.key, self.value))
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """Two layers with GELU between, four times as wide inside: [n, tokens, width] -> the same shape."""

    def __init__(self, width: int, operations: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = operations.Linear(width, 4 * width), operations.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm and added to its input: [n, tokens, width]."""

    def __init__(self, width: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.ffn_norm = operations.LayerNorm(width, eps=1e-6)
        self.ffn = FeedForward(width, operations)
        self.attn = Attention(width, heads, operations)
        self.attention_norm = operations.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Layers(nn.Module):
    """Two blocks and a last norm: [n, tokens, width] -> the same shape."""

    def __init__(self, width: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(width, heads, operations) for _ in range(2))
        self.encoder_norm = operations.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layer:
            x = block(x)
        return self.encoder_norm(x)


class TransEncoder(nn.Module):
    """A transformer over the places of one of the encoder's maps, of this stride."""

    def __init__(self, n_in: int, stride: int, width: int, heads: int, operations: Any) -> None:
        super().__init__()
        self.patch_embeddings = operations.Conv2d(n_in, width, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, ROWS // stride * (COLUMNS // stride), width))
        self.transformer_encoder = Layers(width, heads, operations)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[2]
        x = rearrange(self.patch_embeddings(x), "b c h w -> b (h w) c") + self.position_embeddings
        return rearrange(self.transformer_encoder(x), "b (h w) c -> b c h w", h=rows)


class Decoder(nn.Module):
    """The encoder's maps (fine, middle, coarse) -> saliency [n, 1, 288, 384] in 0..1.

    Each map goes through its transformer; what comes from the coarser ones is doubled in size and multiplied with it.
    """

    def __init__(self, widths: tuple[int, int, int], operations: Any) -> None:
        super().__init__()
        channels = (768, 768, 512, 256, 128, 64, 32, 1)
        for number, (n_in, n_out) in enumerate(zip(channels, channels[1:]), 1):
            self.add_module(f"conv{number}", operations.Conv2d(n_in, n_out, 3, 1, 1))
        for number, n_out in enumerate(channels[1:-1], 1):
            self.add_module(f"batchnorm{number}", operations.BatchNorm2d(n_out))
        fine, middle, coarse = widths
        self.TransEncoder1 = TransEncoder(coarse, 32, 768, 12, operations)
        self.TransEncoder2 = TransEncoder(middle, 16, 768, 12, operations)
        self.TransEncoder3 = TransEncoder(fine, 8, 512, 8, operations)

    def _stage(self, number: int, x: Tensor) -> Tensor:
        return F.relu(getattr(self, f"batchnorm{number}")(getattr(self, f"conv{number}")(x)))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Saliency from the encoder's maps, the finest first."""
        fine, middle, coarse = maps
        double = lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")  # noqa: E731
        x = double(self._stage(1, self.TransEncoder1(coarse)))
        x = double(self._stage(2, F.relu(x * self.TransEncoder2(middle))))
        x = double(self._stage(3, F.relu(x * self.TransEncoder3(fine))))
        x = self._stage(5, double(self._stage(4, x)))
        return torch.sigmoid(self.conv7(self._stage(6, double(x))))


class TranSalNet(nn.Module):
    """kind: "res" (ResNet-50) or "dense" (DenseNet-161)."""

    def __init__(self, kind: str, operations: Any = comfy.ops.disable_weight_init) -> None:
        super().__init__()
        self.encoder = Encoder(kind, operations)
        self.decoder = Decoder(WIDTHS[kind], operations)

    def forward(self, letterboxed: Tensor) -> Tensor:
        """[n, 3, 288, 384] in 0..1, RGB, not normalized -> saliency [n, 1, 288, 384] in 0..1."""
        return self.decoder(self.encoder(letterboxed))

    def saliency(self, pictures: Tensor) -> Tensor:
        """Pictures [n, 3, height, width] in 0..1 of any size -> maps [n, height, width]."""
        return unboxed(self(letterbox(pictures)), *pictures.shape[-2:])


def kind_of(state: dict[str, Tensor]) -> str | None:
    """Which of the two a state dict belongs to; None: to neither."""
    if "decoder.TransEncoder1.patch_embeddings.weight" not in state:
        return None
    return "res" if "encoder.encoder.7.0.conv1.weight" in state else "dense"


def letterbox(pictures: Tensor) -> Tensor:
    """Pictures fitted into 288 x 384 on a nearly black ground, as published: bilinear, not antialiased."""
    height, width = pictures.shape[-2:]
    if height / ROWS > width / COLUMNS:
        size = (ROWS, min(COLUMNS, max(1, width * ROWS // height)))
    else:
        size = (min(ROWS, max(1, height * COLUMNS // width)), COLUMNS)
    top, left = (ROWS - size[0]) // 2, (COLUMNS - size[1]) // 2
    boxed = pictures.new_full((*pictures.shape[:2], ROWS, COLUMNS), BORDER)
    boxed[..., top : top + size[0], left : left + size[1]] = F.interpolate(pictures, size=size, mode="bilinear")
    return boxed


def unboxed(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps [n, 1, 288, 384] at the size of the pictures, the letterbox's border cut off: [n, height, width]. Stretched
    along the axis that is cut first: along both, a very wide picture's map would fill a square of its width."""
    if height / ROWS > width / COLUMNS:
        columns = max(width, COLUMNS * height // ROWS)
        left = (columns - width) // 2
        inner = F.interpolate(maps, size=(ROWS, columns), mode="bilinear")[..., left : left + width]
    else:
        rows = max(height, ROWS * width // COLUMNS)
        top = (rows - height) // 2
        inner = F.interpolate(maps, size=(rows, COLUMNS), mode="bilinear")[..., top : top + height, :]
    return F.interpolate(inner, size=(height, width), mode="bilinear")[:, 0]
