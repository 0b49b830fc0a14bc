"""ShapesWorld: a small world of captioned pictures with exact masks, and the trainer of the models that live in it."""
