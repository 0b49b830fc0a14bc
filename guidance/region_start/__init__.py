"""Where a picture begins: the starting noise told what should be where (2309.15842, 2411.15580)."""
