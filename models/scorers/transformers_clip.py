"""CLIP weights in the format of transformers, under the names that open_clip has for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor

TOWERS = {"vision_model.": "visual.", "text_model.": ""}
NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
}
LAYER = {
    "layer_norm1.": "ln_1.", "layer_norm2.": "ln_2.", "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj.",
}  # fmt: skip
PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
IN_A_LAYER = re.compile(r"(vision_model\.|text_model\.)encoder\.layers\.(\d+)\.(.+)")
FIRST_OF_THREE = re.compile(r"self_attn\.q_proj\.(weight|bias)")


def is_transformers(state: dict[str, Tensor]) -> bool:
    """Whether a file is in this format, whole or a part of a CLIP."""
    return any(key.startswith(("vision_model.embeddings.", "text_model.embeddings.")) for key in state)


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as open_clip names them: q, k and v in one matrix, projections the other way round. What is not
    known is left out. Raises KeyError where a layer has q but no k or v."""
    made = {}
    for key, value in state.items():
        within = IN_A_LAYER.fullmatch(key)
        if within:
            tower, layer, name = within.groups()
            there = f"{TOWERS[tower]}transformer.resblocks.{layer}."
            three = FIRST_OF_THREE.fullmatch(name)
            if three:
                each = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
                made[f"{there}attn.in_proj_{three[1]}"] = torch.cat(each)
            else:
                made |= {there + name.replace(old, new): value for old, new in LAYER.items() if name.startswith(old)}
        elif key in PROJECTIONS:
            made[PROJECTIONS[key]] = value.T
        elif key == "logit_scale":
            made[key] = value
        else:
            made |= {key.replace(old, new): value for old, new in NAMES.items() if key.startswith(old)}
    return made


def quick_gelu_of_config(path: Path, width: int, layers: int) -> bool | None:
    """What the config.json beside a weight file says of the activation; None where there is none, or where it is not
    that of a CLIP with such a picture tower."""
    from transformers import CLIPConfig  # whose defaults fill what files leave out

    try:
        told = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        if told.get("model_type") != "clip":
            return None
        vision = CLIPConfig.from_dict(told).vision_config
    except Exception:  # missing, damaged, or of another kind: the file's name decides
        return None
    if (vision.hidden_size, vision.num_hidden_layers) != (width, layers):
        return None
    return bool(vision.hidden_act == "quick_gelu")


def published_with_quick_gelu(name: str, architecture: str) -> bool:
    """For a file whose name says nothing: in this format the B and L that people have are OpenAI's, the larger ones
    LAION's and what was trained on from them (PickScore)."""
    others = ("laion", "datacomp", "commonpool")
    return architecture.startswith(("ViT-B", "ViT-L")) and not any(other in name.lower() for other in others)
