"""The engine: hooks into a model's attention calls, model-family adapters, recorders. It knows no technique."""
