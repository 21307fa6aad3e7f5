"""Coverage as people look at it: a table and heat maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.ontology import default_ontology
from vlm.atomic import replacing
from vlm.data.coverage import Coverage, CrossCount, count, load_grid, read_named, write_plan

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["as_table", "main_coverage", "notes", "plot"]

_NAMED = 4
"""Cells that the table names, the emptiest first."""


def main_coverage(
    paths: Sequence[str],
    grid: str | None = None,
    *,
    plot_to: str | None = None,
    plan_to: str | None = None,
    show: bool = True,
) -> Coverage:
    """Count the records of all `paths` together; write the plot and the plan, and print the table, as asked.

    Raises:
        FileNotFoundError: no records or no grid there.
        ValueError: a row or the grid is wrong, or the plot cannot be drawn.
    """
    cells = load_grid(grid)
    coverage = count(chain.from_iterable(map(read_named, paths)), cells)
    if plan_to:
        write_plan(coverage, plan_to)
    if plot_to:
        plot(coverage, plot_to)
    if show:
        from vlm.show import make_console

        console = make_console()
        console.print(as_table(coverage))
        for line in (*notes(coverage), *filter(None, (plan_to, plot_to))):
            console.print(line, markup=False)
    return coverage


def as_table(coverage: Coverage) -> Table:
    """A row a cross: how many cells are filled, thin and empty, what is unknown, and the worst cells by name."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("cross", no_wrap=True)
    for name in ("cells", "filled", "thin", "empty", "wanted", "unknown", "elsewhere"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worst cells", overflow="fold")
    for found in coverage.crosses:
        empty, thin = len(found.empty()), len(found.thin())
        table.add_row(
            found.cross.name,
            str(len(found.counts)),
            Text(str(len(found.filled())), style="green"),
            Text(str(thin), style="yellow" if thin else "dim"),
            Text(str(empty), style="red" if empty else "dim"),
            str(found.cross.wanted),
            str(found.unknown),
            str(found.elsewhere),
            Text(_worst(found)),
        )
    return table


def _worst(found: CrossCount) -> str:
    if _all_unknown(found):
        return "unknown in all records"
    if not any(found.counts.values()):
        return "all of them"
    worst = sorted(
        (cell for cell, num in found.counts.items() if num < found.cross.wanted), key=found.counts.__getitem__
    )
    # Spread over the list: the first ones would all be of one garment.
    same = [cell for cell in worst if found.counts[cell] == found.counts[worst[0]]]
    chosen = same[:: max(1, len(same) // _NAMED)][:_NAMED] if len(same) > _NAMED else worst[:_NAMED]
    named = [f"{' '.join(reversed(cell))} {found.counts[cell]}" for cell in chosen]
    return ", ".join(named) + (", ..." if len(worst) > len(chosen) else "")


def notes(coverage: Coverage) -> list[str]:
    """What the numbers do not say by themselves."""
    said = [f"{coverage.num_records} records, {coverage.num_objects} garments"]
    for found in coverage.crosses:
        if (sums := found.sums()) and any(found.counts.values()):
            said.append(f"{sums[0]} (approximately): " + ", ".join(f"{name} {num}" for name, num in sums[1].items()))
    if coverage.unknown_groups:
        said.append(f"unknown in all of these records: {', '.join(coverage.unknown_groups)}")
    if "skin_tone" in coverage.unknown_groups:
        said.append("skin tone is never read from photos of people; audits of finished models look at it apart")
    return said


def plot(coverage: Coverage, path: str | os.PathLike[str]) -> None:
    """Heat maps of the crosses and bars of the axes, as PNG; written whole or not at all.

    Raises:
        ValueError: matplotlib is not installed, `path` is no .png, or there is nothing to plot.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"{target}: cannot write {target.suffix or 'a file without suffix'}; name it *.png")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the coverage plot needs matplotlib; install it with `pip install 'vlm[eval]'`") from error
    single = [found for found in coverage.crosses if len(found.cross.axes) == 1]
    double = [found for found in coverage.crosses if len(found.cross.axes) == 2]
    if not single and not double:
        raise ValueError("the grid has neither axes nor crosses of two; there is nothing to plot")
    double.sort(key=lambda found: len(_values(found, 0)), reverse=True)
    columns = 3
    rows = [double[start : start + columns] for start in range(0, len(double), columns)]
    bars = [single[start : start + 4] for start in range(0, len(single), 4)]
    heights = [0.17 * max(len(_values(found, 0)) for found in row) + 1.6 for row in rows]
    heights += [0.13 * max(len(found.counts) for found in row) + 1.0 for row in bars]
    figure = Figure(figsize=(19, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=False):
        widths = [len(_values(found, 1)) + 6 for found in row]
        for axes, found in zip(part.subplots(1, len(row), squeeze=False, width_ratios=widths)[0], row, strict=True):
            _heat_map(axes, found)
    for part, row in zip(parts[len(rows) :], bars, strict=True):
        for axes, found in zip(part.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            _bars(axes, found)
    with replacing(target) as part:
        figure.savefig(part, format="png", dpi=100)


def _values(found: CrossCount, axis: int) -> list[str]:
    """An axis's values, in the ontology's order where it has one: shortest first, lightest first."""
    values = list(dict.fromkeys(cell[axis] for cell in found.counts))
    order = default_ontology().values.get(found.cross.axes[axis], ())
    return sorted(values, key=lambda value: order.index(value) if value in order else 0)


_EMPTY, _THIN, _FILLED = "#d7301f", "#fdcc8a", "#1a9850"


_UNASKED, _UNKNOWN = (0.93, 0.93, 0.93), (0.8, 0.82, 0.86)


def _colour(found: CrossCount, num: int) -> Any:
    from matplotlib.colors import to_rgb

    if _all_unknown(found):
        return _UNKNOWN
    if num == 0:
        return to_rgb(_EMPTY)
    share = min(1.0, num / found.cross.wanted)
    if share == 1.0:
        return to_rgb(_FILLED)
    first, last = to_rgb(_THIN), to_rgb("#ffffbf")
    return tuple(a + (b - a) * share for a, b in zip(first, last, strict=True))


def _all_unknown(found: CrossCount) -> bool:
    """Nothing was counted because nothing was told: that is no proof of absence."""
    return found.unknown > 0 and found.elsewhere == 0 and not any(found.counts.values())


def _heat_map(axes: Any, found: CrossCount) -> None:
    """Red cells are empty, yellow ones thin, green ones filled; light grey ones are not asked for."""
    ys, xs = _values(found, 0), _values(found, 1)
    pixels = [[_colour(found, found.counts[(y, x)]) if (y, x) in found.counts else _UNASKED for x in xs] for y in ys]
    axes.imshow(pixels, aspect="auto")
    for (y, x), num in found.counts.items():
        if _all_unknown(found):
            break
        text = str(num) if num < 1000 else f"{num / 1000:.0f}k" if num >= 9950 else f"{num / 1000:.1f}k"
        shade = "white" if num == 0 or num >= found.cross.wanted else "black"
        axes.text(xs.index(x), ys.index(y), text, ha="center", va="center", fontsize=6, color=shade)
    axes.set_xticks(range(len(xs)), xs, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(ys)), ys, fontsize=7)
    axes.tick_params(length=0)
    axes.set_title(_title(found), fontsize=9)
    axes.spines[:].set_visible(False)


def _bars(axes: Any, found: CrossCount) -> None:
    names = [cell[0] for cell in found.counts]
    nums = list(found.counts.values())
    axes.barh(range(len(names)), nums, color=[_colour(found, num) for num in nums])
    axes.axvline(found.cross.wanted, color="0.4", linewidth=0.8, linestyle=":")
    for place, num in enumerate(nums):
        shown = " unknown" if _all_unknown(found) else f" {num}"
        axes.text(num, place, shown, va="center", fontsize=6, color="0.4" if num else "0.5")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="x", labelsize=6)
    axes.set_title(_title(found), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _title(found: CrossCount) -> str:
    if _all_unknown(found):
        return f"{found.cross.name}: unknown in all {found.unknown}"
    unknown = f", {found.unknown} unknown" if found.unknown else ""
    return (
        f"{found.cross.name}: {len(found.filled())} of {len(found.counts)} filled ({found.cross.wanted} each{unknown})"
    )
