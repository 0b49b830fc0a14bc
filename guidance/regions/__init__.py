"""Regions: DenseDiffusion (arXiv 2308.12964) and Paint-with-Words (arXiv 2211.01324)."""
