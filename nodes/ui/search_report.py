"""What a search for starting noise did and found, in words."""

from __future__ import annotations

import math

from ...guidance.noise_optimization.config import OptimizationConfig, OptimizationResult


def lines(result: OptimizationResult, config: OptimizationConfig) -> list[str]:
    """One fact per line, each picture's losses first."""
    best = result.best
    return [
        *(f"picture {i + 1}: {first:.4f} at first, {last:.4f} at best"
          for i, (first, last) in enumerate(zip(best.iterations[0], best.losses.tolist()))),
        f"{len(best.iterations)} trials" + (f"; stopped: {best.stopped}" if best.stopped else ""),
        *_region_lines(result, config),
        *map(str, result.phases),
        *best.notes,
        *warnings(result),
        *([f"noise that samplers draw on the way: seed {', '.join(map(str, result.seeds))} for the pictures in turn"]
          if len(set(result.seeds)) > 1 else []),
    ]  # fmt: skip


def warnings(result: OptimizationResult) -> list[str]:
    """What did not go as asked, a line for each."""
    best = result.best
    return [
        *([f"{best.dropped} candidates gave NaN or infinity and were dropped"] if best.dropped else []),
        *(f"picture {i + 1}: nothing salient in {count} trials, where the whole picture counted alone"
          for i, count in enumerate(result.empty_saliency) if count),
        *([f"{best.rejected} steps led to NaN and were taken back"] if best.rejected else []),
    ]  # fmt: skip


def _region_lines(result: OptimizationResult, config: OptimizationConfig) -> list[str]:
    """How well each region fits its own prompt."""
    prompts = [] if config.regions is None else config.regions.prompts
    return [
        f"picture {i + 1}, region {k + 1} ({prompt[:40]}): " + ("empty" if math.isnan(score) else f"{score:.2f}")
        for i, scores in enumerate(result.region_scores) for k, (prompt, score) in enumerate(zip(prompts, scores))
    ]  # fmt: skip
