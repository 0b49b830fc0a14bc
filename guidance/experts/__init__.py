"""Several models share one sampling run, each in its own range of noise (eDiff-I, arXiv 2211.01324)."""
