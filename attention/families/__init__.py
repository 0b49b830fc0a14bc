"""One adapter per model family: what its attention calls are."""
