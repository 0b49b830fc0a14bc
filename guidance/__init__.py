"""The algorithms: tensors in, tensors out. No graph, no server, no user interface."""
