"""What ComfyUI's samplers remember from step to step, and what models do.

A candidate that is left after a part of the steps can go on from where it is only if nothing remembers the steps
before: neither the sampler nor a node in the model. Else it is sampled again from its noise. The lists are of samplers
that were tried (tests/noise_optimization/test_memoryless.py): one that is in none of them is taken to remember, and
samples one candidate at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...attention import hooks
from ..wrapper_keys import REMEMBERS_STEPS

# Their steps from k on, begun with the latent at step k, are those of the whole run.
MEMORYLESS = frozenset({
    "ddim", "ddpm", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde",
    "dpmpp_sde_gpu", "euler", "euler_ancestral", "euler_ancestral_cfg_pp", "euler_cfg_pp", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "heun", "lcm", "seeds_2", "seeds_3",
})  # fmt: skip
# They draw noise: from a generator, one tensor after the other, or from a Brownian path over the whole schedule.
GENERATOR, BROWNIAN, BROWNIAN_GPU = "generator", "brownian", "brownian on the gpu"
DRAWN_NOISE = {
    **dict.fromkeys(("ddpm", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "er_sde",
                     "euler_ancestral", "euler_ancestral_cfg_pp", "exp_heun_2_x0_sde", "lcm",
                     "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "sa_solver", "sa_solver_pece",
                     "seeds_2", "seeds_3"), GENERATOR),
    **dict.fromkeys(("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"), BROWNIAN),
    **dict.fromkeys(("dpmpp_sde_gpu", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde_gpu"), BROWNIAN_GPU),
}  # fmt: skip
# They draw none.
DETERMINISTIC = frozenset({
    "ddim", "deis", "dpm_2", "dpm_adaptive", "dpm_fast", "dpmpp_2m", "dpmpp_2m_cfg_pp", "euler", "euler_cfg_pp",
    "exp_heun_2_x0", "gradient_estimation", "gradient_estimation_cfg_pp", "heun", "heunpp2", "ipndm", "ipndm_v", "lms",
    "res_multistep", "res_multistep_cfg_pp", "uni_pc", "uni_pc_bh2",
})  # fmt: skip
# Samplers that choose their steps by all of the latents in a batch: each candidate by itself.
ADAPTIVE = frozenset({"dpm_adaptive"})
STEP_MEMORY = ("comfy_extras.nodes_apg",)  # modules of nodes whose functions remember the guidance of earlier steps
CFG_FUNCTIONS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")


def samples_together(sampler: str) -> bool:
    """Whether several candidates in one batch are what each is by itself."""
    return (sampler in DETERMINISTIC or sampler in DRAWN_NOISE) and sampler not in ADAPTIVE


def what_remembers(sampler: str, options: Mapping[str, Any]) -> str:
    """Why a candidate cannot go on from where it is; "" if it can. options: of the sampled model."""
    if sampler not in MEMORYLESS:
        return f"{sampler} remembers earlier steps"
    inner = options.get("transformer_options", {})
    if inner.get(REMEMBERS_STEPS):
        return inner[REMEMBERS_STEPS]
    if any(getattr(technique, "every_n_steps", 1) > 1 for technique in inner.get(hooks.TECHNIQUES, ())):
        return "Self-Attention Guidance (every_n_steps above 1) remembers earlier steps"
    functions = [each for name in CFG_FUNCTIONS for each in options.get(name, ())]
    if any(getattr(each, "__module__", "") in STEP_MEMORY for each in functions):
        return "Adaptive Projected Guidance remembers earlier steps"
    return ""
