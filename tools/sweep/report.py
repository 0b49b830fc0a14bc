"""A sweep in numbers and pictures: per arm the scores with intervals and against the first arm, box plots, one page."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..studies import metrics
from .jobs import Job
from .store import Store


class Key(NamedTuple):
    """Which pictures of all arms belong together. number: in its batch."""

    text: str
    boxes: str
    seed: int
    number: int


def arms(jobs: Sequence[Job], store: Store) -> dict[str, dict[Key, dict[str, Any]]]:
    """Arm (setting and output) -> key -> picture's file, scores, category.

    Arms in the order of the command line, whichever is finished first: differences are to the first one.
    """
    names = list(dict.fromkeys((job.setting.name, output) for job in jobs for output in job.plan.outputs.values()))
    several = len({output for _, output in names}) > 1
    said = {name: " / ".join(name) if several else name[0] for name in names}
    found: dict[str, dict[Key, dict[str, Any]]] = {arm: {} for arm in said.values()}
    for job in jobs:
        if not store.drawn(job):
            continue
        told = store.read(job)
        for output, files in told["pictures"].items():
            rated = told["scores"].get(output, {})
            for i, name in enumerate(files):
                scores = {scorer: values[i] for scorer, values in rated.items() if i < len(values)}
                found[said[job.setting.name, output]][Key(job.prompt.text, job.prompt.boxes, job.seed, i)] = {
                    "file": f"jobs/{job.key}/{name}", "category": job.prompt.category, "seconds": told["seconds"],
                    "scores": {scorer: value for scorer, value in scores.items() if value is not None},
                }  # fmt: skip
    return found


def tabulate(found: dict[str, dict]) -> list[dict[str, Any]]:
    """A row per arm and scorer: number, mean with 95 % bootstrap interval over prompts; less the first arm, paired."""
    rows = []
    first = next(iter(found.values()), {})
    for arm, pictures in found.items():
        for scorer in sorted({name for each in pictures.values() for name in each["scores"]}):
            keys = [key for key, each in pictures.items() if scorer in each["scores"]]
            values = [pictures[key]["scores"][scorer] for key in keys]
            row = {"arm": arm, "scorer": scorer, "n": len(values), "mean": with_interval(keys, values)}
            both = [key for key in keys if scorer in first.get(key, {}).get("scores", {})]
            if pictures is not first and both:
                less = [pictures[key]["scores"][scorer] - first[key]["scores"][scorer] for key in both]
                row |= {"less_first": with_interval(both, less), "pairs": len(both)}
            rows.append(row)
    return rows


def with_interval(keys: Sequence[Key], values: Sequence[float]) -> list[float]:
    """Mean and interval. Pictures of one prompt are no independent samples: whole prompts are drawn, and of one prompt
    alone there is no interval."""
    by_prompt: dict[tuple[str, str], list[float]] = {}
    for key, value in zip(keys, values):
        by_prompt.setdefault((key.text, key.boxes), []).append(value)
    groups = list(by_prompt.values())
    sums, counts = (np.array([float(of(group)) for group in groups]) for of in (sum, len))

    def mean(chosen: np.ndarray) -> float:
        return float(sums[chosen].sum() / counts[chosen].sum())

    whole = mean(np.arange(len(groups)))
    if len(groups) == 1:
        return metrics.rounded((whole,))
    return metrics.rounded((whole, *metrics.bootstrap(mean, len(groups), 1000)))


def box_plots(found: dict[str, dict]) -> dict[str, str]:
    """Scorer -> box plot of all arms, as data URL."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plots = {}
    for scorer in sorted({name for arm in found.values() for each in arm.values() for name in each["scores"]}):
        names = list(found)
        rated = {name: [each["scores"] for each in found[name].values()] for name in names}
        values = [[scores[scorer] for scores in rated[name] if scorer in scores] for name in names]
        figure, axis = pyplot.subplots(figsize=(8, 0.5 * len(names) + 1), dpi=90)
        axis.boxplot(values, orientation="horizontal", widths=0.6, showmeans=True)
        axis.set_yticks(range(1, len(names) + 1), [name.replace("$", r"\$") for name in names])
        axis.set_title(scorer.replace("$", r"\$"), fontsize=9)
        axis.tick_params(labelsize=8)
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        pyplot.close(figure)
        plots[scorer] = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return plots


STYLE = """body{font:15px system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}
table{border-collapse:collapse}
td,th{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:left;vertical-align:top}
img{max-width:100%}
td img{width:14em}"""


def page(title: str, found: dict[str, dict], rows: Sequence[dict], failed: dict[str, str]) -> str:
    """One HTML page; pictures are linked, plots are in it. Prompts and names are text, never markup."""
    safe = html.escape
    first = safe(next(iter(found), ""))
    lines = [f"<!doctype html><meta charset=utf-8><title>{safe(title)}</title><style>{STYLE}</style>",
             f"<h1>{safe(title)}</h1>",
             f"<table><tr><th>arm<th>scorer<th>N<th>mean [95 %]<th>less {first}, paired"]  # fmt: skip
    for row in rows:
        cells = (row["arm"], row["scorer"], str(row["n"]), written(row["mean"]), written(row.get("less_first")))
        lines.append("<tr>" + "".join(f"<td>{safe(cell)}" for cell in cells))
    lines.append("</table>")
    lines += [f"<p><img src='{plot}' alt='{safe(scorer)}'>" for scorer, plot in box_plots(found).items()]
    if failed:
        lines += ["<h2>Failed</h2><ul>", *(f"<li>{safe(key)}: {safe(why)}" for key, why in failed.items()), "</ul>"]
    lines += ["<h2>Pictures</h2><table><tr><th>", *(f"<th>{safe(arm)}" for arm in found)]
    for key in dict.fromkeys(key for arm in found.values() for key in arm):
        lines.append(f"<tr><td>{safe(key.text)}<br>seed {key.seed}")
        lines += ["<td>" + (f"<img loading=lazy src='{safe(arm[key]['file'])}'>" if key in arm else "")
                  for arm in found.values()]  # fmt: skip
    return "\n".join([*lines, "</table>"]) + "\n"


def written(values: Sequence[float] | None) -> str:
    """A mean, with its interval where there is one."""
    if values is None:
        return ""
    mean, *interval = values
    return f"{mean:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def failures(jobs: Sequence[Job], failed: dict[str, str]) -> dict[str, str]:
    """Key -> which job it was, and why."""
    told = {job.key: job.told() for job in jobs if job.key in failed}
    return {key: f"{each['setting']}, {each['prompt']!r}, seed {each['seed']}: {failed[key]}"
            for key, each in told.items()}  # fmt: skip


def write(folder: Path, title: str, jobs: Sequence[Job], store: Store, failed: dict[str, str]) -> dict[str, Any]:
    """report.json and report.html of what is done so far. failed: key -> why."""
    found, failed = arms(jobs, store), failures(jobs, failed)
    rows = tabulate(found)
    categories = sorted({each["category"] for arm in found.values() for each in arm.values()} - {""})
    by_category = {
        category: tabulate({name: {key: each for key, each in arm.items() if each["category"] == category}
                            for name, arm in found.items()})
        for category in categories
    }  # fmt: skip
    done = sum(store.done(job) for job in jobs)
    report = {"title": title, "first": next(iter(found), None), "jobs": len(jobs), "done": done, "failed": failed,
              "table": rows, "categories": by_category}  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(title, found, rows, failed), encoding="utf-8")
    return report
