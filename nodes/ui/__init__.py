"""What nodes draw: heat maps, charts."""
