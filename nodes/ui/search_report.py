"""What a search for starting noise did and found, in words."""

from __future__ import annotations

from ...guidance.noise_optimization.config import OptimizationResult


def lines(result: OptimizationResult) -> list[str]:
    """One fact per line, each picture's losses first."""
    best = result.best
    return [
        *(f"picture {i + 1}: {first:.4f} at first, {last:.4f} at best"
          for i, (first, last) in enumerate(zip(best.iterations[0], best.losses.tolist()))),
        f"{len(best.iterations)} trials" + (f"; stopped: {best.stopped}" if best.stopped else ""),
        *map(str, result.phases),
        *best.notes,
        *([f"{best.dropped} candidates gave NaN or infinity and were dropped"] if best.dropped else []),
        *(f"picture {i + 1}: nothing salient in {count} trials, where the whole picture counted alone"
          for i, count in enumerate(result.empty_saliency) if count),
        *([f"{best.rejected} steps led to NaN and were taken back"] if best.rejected else []),
        *([f"noise that samplers draw on the way: seed {', '.join(map(str, result.seeds))} for the pictures in turn"]
          if len(set(result.seeds)) > 1 else []),
    ]  # fmt: skip
