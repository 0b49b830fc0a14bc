"""Scorers: networks that say how well a picture fits a text, and their loaders."""
