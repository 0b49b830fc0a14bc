"""LoRAs of regions: styles that stay in their half, and what a step costs."""
