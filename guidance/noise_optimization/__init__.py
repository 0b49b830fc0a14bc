"""Optimizing the starting noise: SGOOL, DOODL, ReNO's rule, best of n, and CLIP guidance to compare with."""
