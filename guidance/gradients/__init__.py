"""Gradients inside ComfyUI: what has to be different from a plain run, and what is refused."""
