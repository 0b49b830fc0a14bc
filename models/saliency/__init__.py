"""Saliency models: where people look in a picture."""
