"""Keys under which techniques put wrappers and marks into a model, by which others find them."""

from __future__ import annotations

CLIP_GUIDANCE = "fovea_clip_guidance"
EXPERTS = "fovea_experts"
STARTING_NOISE = "fovea_starting_noise"
REMEMBERS_STEPS = "fovea_remembers_steps"  # in transformer_options: why a step is another one after other steps
