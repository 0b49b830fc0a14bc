"""LoRAs that act in their region only, all in one evaluation of the model."""
