"""The pack's three jobs as subgraph blueprints, which the editor's node library offers."""

from __future__ import annotations

from typing import Any

from ...comfy.workflow import Workflow
from ..blueprint import Blueprint

SAMPLING = ("seed", "steps", "cfg", "sampler_name", "scheduler")


def paint(info: dict[str, Any]) -> Workflow:
    about = ("Draws each region's prompt in its place: Dense Diffusion, Region Start, a sampler. Connect the regions "
             "and the prompt of a Region Painter.")  # fmt: skip
    board = Blueprint(info, "Paint with words (Fovea)", "Fovea/regions", about)
    model, clip, vae = board.inlet("model", "MODEL"), board.inlet("clip", "CLIP"), board.inlet("vae", "VAE")
    regions, prompt = board.inlet("regions", "FOVEA_REGIONS"), board.inlet("prompt", "STRING")
    latent = board.inlet("latent_image", "LATENT")
    steer = board.put("FoveaDenseDiffusion", 0, tint="ours", model=model, clip=clip, regions=regions, prompt=prompt)
    hinted = board.put("FoveaRegionStart", 1, tint="ours", model=(steer, 0), regions=regions, background=prompt)
    sampled = board.put("KSampler", 1, model=(hinted, 0), positive=(steer, 1), negative=(steer, 2), latent_image=latent)
    decoded = board.put("VAEDecode", 2, samples=(sampled, 0), vae=vae)
    board.outlet("IMAGE", (decoded, 0))
    board.outlet("LATENT", (sampled, 0))
    board.show(steer, "negative_prompt", "cross_strength")
    board.show(hinted, "strength")
    board.show(sampled, *SAMPLING)
    return board.blueprint()


def two_models(info: dict[str, Any]) -> Workflow:
    about = ("One sampler, two models: the second takes over below a noise level. Set for Wan 2.2, whose two models "
             "also want Model Sampling SD3 with shift 12 before them. Presets for the SDXL refiner too: connect its "
             "own prompts.")  # fmt: skip
    board = Blueprint(info, "Two models in one run (Fovea)", "Fovea/experts", about)
    first, second = board.inlet("model", "MODEL", "high noise"), board.inlet("expert", "MODEL", "low noise")
    positive, negative = board.inlet("positive", "CONDITIONING"), board.inlet("negative", "CONDITIONING")
    latent, vae = board.inlet("latent_image", "LATENT"), board.inlet("vae", "VAE")
    own, own_negative = (board.inlet(f"expert {name}", "CONDITIONING") for name in ("positive", "negative"))
    expert = board.put("FoveaExpert", 0, tint="ours", model=second, boundary_unit="Wan 2.2 T2V, low noise",
                       positive=own, negative=own_negative)  # fmt: skip
    switch = board.put("FoveaExpertSwitch", 0, tint="ours", model=first, experts=(expert, 0))
    sampled = board.put("KSampler", 1, model=(switch, 0), positive=positive, negative=negative, latent_image=latent,
                        cfg=4.0)  # fmt: skip
    decoded = board.put("VAEDecode", 2, samples=(sampled, 0), vae=vae)
    board.outlet("IMAGE", (decoded, 0))
    board.outlet("LATENT", (sampled, 0))
    board.outlet("report", (switch, 1))
    board.show(expert, "boundary_unit", "boundary")
    board.show(switch, "blend", "memory")
    board.show(sampled, *SAMPLING)
    return board.blueprint()


def best_noise(info: dict[str, Any]) -> Workflow:
    about = ("Tries several starting noises and keeps the picture that fits the prompt best, by a CLIP: choose yours "
             "at file. The one that ships knows the demo model alone.")  # fmt: skip
    board = Blueprint(info, "The best starting noise (Fovea)", "Fovea/scoring", about)
    model, clip, vae = board.inlet("model", "MODEL"), board.inlet("clip", "CLIP"), board.inlet("vae", "VAE")
    latent, prompt = board.inlet("latent_image", "LATENT"), board.inlet("prompt", "STRING")
    positive = board.put("CLIPTextEncode", 0, "Prompt", "prompt", clip=clip, text=prompt)
    negative = board.put("CLIPTextEncode", 0, "Negative prompt", "prompt", clip=clip)
    scorer = board.put("FoveaLoadScorer", 0, tint="ours")
    found = board.put("FoveaBestOfN", 1, tint="ours", model=model, vae=vae, positive=(positive, 0),
                      negative=(negative, 0), latent_image=latent, scorer=(scorer, 0), prompt=prompt)  # fmt: skip
    for name, slot in (("IMAGE", 1), ("LATENT", 0), ("noise", 3), ("report", 5)):
        board.outlet(name, (found, slot))
    board.show(scorer, "file")
    board.show(negative, "text")
    board.show(found, "candidates", "rounds", *SAMPLING)
    return board.blueprint()


def blueprints(info: dict[str, Any]) -> dict[str, Workflow]:
    """File's name -> blueprint. info: of the server's nodes."""
    made = [draw(info) for draw in (paint, two_models, best_noise)]
    return {blueprint["nodes"][0]["title"]: blueprint for blueprint in made}
