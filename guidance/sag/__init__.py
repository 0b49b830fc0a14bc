"""Self-Attention Guidance (arXiv 2210.00939)."""
