"""Results as people read them in a terminal; `to_dict` is the form for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tasks.boxes import Box
from tasks.results import Answer, Attributes, Caption, Detection, Garment, Grounding, Outfit, Result, Value

__all__ = ["make_console", "show_pairs", "show_result"]

DOUBTFUL = 0.5
"""A value less likely than this is shown with a question mark."""

_PIPE_WIDTH = 160


def make_console() -> Console:
    """To standard output. A file or pipe gets lines wide enough for a whole table."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def show_result(console: Console, photo: str, result: Result) -> None:
    """One photo's result: its name, what was said, and a table where there is more than one thing."""
    console.print(Text(photo, style="bold"))
    if isinstance(result, Outfit):
        console.print(Text(result.summary or "(no description)"))
        if result.garments:
            console.print(_garment_table(console, result.garments))
        else:
            console.print(Text("no garments found", style="dim"))
    elif isinstance(result, Detection):
        if result.objects:
            console.print(_garment_table(console, result.objects))
        else:
            console.print(Text("no garments found", style="dim"))
    elif isinstance(result, Grounding):
        console.print(_grounding(result))
    elif isinstance(result, Attributes):
        console.print(_attribute_table(result))
    elif isinstance(result, (Caption, Answer)):
        line = Text(result.text)
        line.append(f"  {_percent(result.score)}", style="dim")
        console.print(line)
    if result.truncated:
        console.print(Text("cut off at the token limit", style="yellow"))


def show_pairs(console: Console, pairs: Mapping[str, Any]) -> None:
    """A two-column list of names and values."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(Text(name), Text(str(value)))
    console.print(grid)


def _garment_table(console: Console, garments: Sequence[Garment]) -> Table:
    """A column for every attribute that any garment has; where that is too wide, all but two share one."""
    names: list[str] = []
    for garment in garments:
        for name in garment.attributes.values if garment.attributes else ():
            if name not in names:
                names.append(name)
    table = _build_table(garments, names, ())
    room = console.width
    if Measurement.get(console, console.options.update_width(10_000), table).maximum > room:
        table = _build_table(garments, names[:2], names[2:])
    return table


def _build_table(garments: Sequence[Garment], columns: Sequence[str], shared: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("garment", no_wrap=True)
    for name in columns:
        table.add_column(Text(name))
    if shared:
        table.add_column("details", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("box", justify="right", no_wrap=True)
    named = any(garment.alternatives for garment in garments)
    if named:
        table.add_column("or", overflow="fold")
    doubt = False
    for garment in garments:
        values = garment.attributes.values if garment.attributes else {}
        doubt = doubt or any(value.score < DOUBTFUL for value in values.values())
        cells = [_value(values.get(name)) for name in columns]
        if shared:
            cells.append(_details((name, values[name]) for name in shared if name in values))
        cells += [Text(_percent(garment.score)), Text(_box(garment.box))]
        if named:
            cells.append(Text(", ".join(f"{word} {_percent(score)}" for word, score in garment.alternatives)))
        table.add_row(Text(garment.label, style="bold"), *cells)
    if doubt:
        table.caption = Text("? = less likely than not", style="dim")
        table.caption_justify = "left"
    return table


def _attribute_table(result: Attributes) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("attribute")
    table.add_column("value")
    table.add_column("score", justify="right")
    for name, value in result.values.items():
        table.add_row(Text(name), _value(value), Text(_percent(value.score)))
    return table


def _grounding(result: Grounding) -> Table | Text:
    if not result.boxes:
        return Text(f"{result.phrase}: none in this photo  {_percent(result.score)}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("phrase")
    table.add_column("score", justify="right")
    table.add_column("box", justify="right", no_wrap=True)
    for box, score in result.boxes:
        table.add_row(Text(result.phrase), Text(_percent(score)), Text(_box(box)))
    return table


def _value(value: Value | None) -> Text:
    if value is None:
        return Text("")
    unseen = value.values == ("not visible",)
    return Text(f"{value}?" if value.score < DOUBTFUL else str(value), style="dim" if unseen else "")


def _details(values: Iterable[tuple[str, Value]]) -> Text:
    """`long sleeve, crew neckline`; what cannot be seen is left out."""
    seen = [(name, value) for name, value in values if value.values != ("not visible",)]
    return Text(", ".join(f"{name} {_value(value)}" for name, value in seen))


def _percent(score: float) -> str:
    return f"{score:.0%}"


def _box(box: Box | None) -> str:
    return "" if box is None else " ".join(f"{value:.0f}" for value in box.xyxy)
