"""Attention: hooks into a model's attention calls, model-family adapters, region masks on token grids."""
