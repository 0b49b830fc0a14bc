"""Style with a scale of its own (eDiff-I, arXiv 2211.01324)."""
