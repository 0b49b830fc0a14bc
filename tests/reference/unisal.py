"""UNISAL for pictures, step by step from a published state dict, with torchvision's MobileNet V2 as its encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

BOTTLENECKS = 17


def encoder(state: dict[str, Tensor]) -> torch.nn.Module:
    """torchvision's MobileNet V2 with the weights of `cnn`. torchvision nests convolution, norm and clamp; the
    published names count through."""
    features = torchvision.models.mobilenet_v2(weights=None).features.eval()
    theirs = {}
    for key in features.state_dict():
        part, rest = key.split(".", 1)
        if part in ("0", str(BOTTLENECKS + 1)):
            theirs[key] = state[f"cnn.features.{key}"]
            continue
        _, *place, name = rest.split(".")
        first = int(place[0])
        if len(place) == 2:  # the nested ones
            number = 3 * first + int(place[1])
        else:
            groups = 1 if part == "1" else 2
            number = 3 * groups + first - groups
        theirs[key] = state[f"cnn.features.{part}.conv.{number}.{name}"]
    features.load_state_dict(theirs)
    return features


def _norm(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{key}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _bottleneck(x: Tensor, state: dict[str, Tensor], key: str, norm: str, widened: bool) -> Tensor:
    if widened:
        x = F.relu6(_norm(F.conv2d(x, state[f"{key}.0.weight"]), state, f"{key}.1{norm}"))
    first = 3 if widened else 0
    x = F.conv2d(x, state[f"{key}.{first}.weight"], padding=1, groups=x.shape[1])
    x = F.relu6(_norm(x, state, f"{key}.{first + 1}{norm}"))
    return _norm(F.conv2d(x, state[f"{key}.{first + 3}.weight"]), state, f"{key}.{first + 4}{norm}")


def _skip(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    x = F.conv2d(x, state[f"{key}.expansion.0.weight"])
    x = F.relu6(_norm(x, state, f"{key}.expansion.1.bn_SALICON"))
    x = F.conv2d(x, state[f"{key}.reduction.0.weight"], state[f"{key}.reduction.0.bias"])
    return _norm(x, state, f"{key}.reduction.1.bn_SALICON")


@torch.no_grad()
def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Normalised picture [1, 3, rows, columns] -> log density [rows, columns]."""
    features, rows, columns = encoder(state), x.shape[2], x.shape[3]
    full: dict[int, Tensor] = {}
    coarse = x
    for i, part in enumerate(features):
        if i in (7, 14):
            full[i] = _at_all_places(part, coarse)
        coarse = part(coarse)
    priors = []
    for (my, sy), (mx, sx) in state["coarse_gaussians_salicon"].tolist():
        grid = [
            [6 * math.exp(-(((i / (coarse.shape[2] - 1) - my) / math.exp(sy)) ** 2) / 2)
             * math.exp(-(((j / (coarse.shape[3] - 1) - mx) / math.exp(sx)) ** 2) / 2)
             for j in range(coarse.shape[3])]
            for i in range(coarse.shape[2])
        ]  # fmt: skip
        priors.append(torch.tensor(grid))
    coarse = torch.cat([coarse, torch.stack(priors)[None]], dim=1)
    coarse = _bottleneck(coarse, state, "post_cnn.inv_res.conv", "", widened=False)
    up = torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    middle = torch.cat([up(coarse), _skip(full[14], state, "skip_2x")], dim=1)
    middle = _bottleneck(middle, state, "upsampling_2.inv_res.conv", ".bn_SALICON", widened=True)
    fine = torch.cat([up(middle), _skip(full[7], state, "skip_4x")], dim=1)
    fine = _bottleneck(fine, state, "post_upsampling_2.inv_res.conv", ".bn_SALICON", widened=True)
    found = F.conv2d(fine, state["adaptation_salicon.0.weight"], state["adaptation_salicon.0.bias"])
    found = found.repeat_interleave(rows // found.shape[2], 2).repeat_interleave(columns // found.shape[3], 3)
    found = F.conv2d(torch.nn.ReplicationPad2d(20)(found), state["smoothing_salicon.weight"])[0, 0]
    return found - torch.logsumexp(found.flatten(), 0)


def _at_all_places(part: torch.nn.Module, x: Tensor) -> Tensor:
    """A strided block without its stride."""
    (depthwise,) = [m for m in part.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    depthwise.stride = (1, 1)
    found = part(x)
    depthwise.stride = (2, 2)
    return found
