"""Text encoders weighted by noise level (eDiff-I, arXiv 2211.01324)."""
