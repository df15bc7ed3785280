"""The tables of a report: Markdown to keep, a console rendering to read at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from s5c.evaluation.collect import FULL, Row, Study, aggregate, by_method, labeller, studies

NOTHING = "–"
MASKED = "masked only: nothing gets smaller"
ON_TEST = "selected on test data"
METHOD_WIDTH = 19  # the longest preset name; leaves the rest of 100 columns to nine numbers


def markdown(rows: Sequence[Row]) -> str:
    """Returns the report as Markdown: for every study its accuracies, models, layers and commands.

    Args:
        rows: Rows as `collect` returns them.
    """
    return "\n\n".join(_section(study) for study in studies(rows)) + "\n"


def console(rows: Sequence[Row]) -> RenderableType:
    """Returns the same, averaged over seeds, for a terminal of 100 columns.

    Args:
        rows: Rows as `collect` returns them.
    """
    blocks: list[RenderableType] = []
    for study in studies(rows):
        blocks += ["", _sizes(study)]
        if len(by_method(study.rows)) > 1:
            blocks += ["", _accuracies(study)]
    return Group(*blocks)


# ------------------------------------------------------------------------------------------------------------ Markdown


def _section(study: Study) -> str:
    parts = [f"## {study.title}", _description(study)]
    if _reduced(study.rows):
        parts += ["### Test accuracy in %, by share of states removed", _summary_table(study)]
    parts += ["### Models, before → after", _model_table(study)]
    if _reduced(study.rows):
        parts += ["### States kept per layer", _layer_table(study)]
    return "\n\n".join([*parts, "### Commands", _commands(study.rows)])


def _description(study: Study) -> str:
    first = study.rows[0]
    orders = first.get("orders_full") or first.get("orders") or []
    mean = aggregate(study.rows)[0]
    key = "test_accuracy" if mean["reduction"] == FULL else "test_accuracy_full"
    sizes = [_integer(_before(first, key)) for key in ("states", "params", "state_params")]
    over = f" over {mean['n']} seeds" if mean["n"] > 1 else ""
    lines = [
        f"- Data: {first.get('source', NOTHING)}",
        f"- Unpruned model: {sizes[0]} states ({' + '.join(f'{n:g}' for n in orders)}), {sizes[1]} parameters, "
        f"{sizes[2]} of them the states'; test accuracy {_percent(mean, key)} %{over}",
        f"- Protocol: `{first.get('protocol', NOTHING)}`, checkpoints {_selection(first)}",
    ]
    if first.get("protocol") == "paper":
        lines.append(
            "\n> ⚠ **Selected on test data.** Under `protocol=paper` the checkpoint reported is the one that scored "
            "best on the test set. These accuracies are optimistic and compare only with others obtained that way."
        )
    return "\n".join(lines)


def _summary_table(study: Study) -> str:
    ratios, grid = _grid(study)
    body = [
        [_flagged(name, next(iter(found.values()))), *(_accuracy_and_loss(found.get(ratio)) for ratio in ratios)]
        for name, found in grid.items()
    ]
    note = "In parentheses: change against the unpruned model, in points."
    if any(row["n"] > 1 for found in grid.values() for row in found.values()):
        note += " Mean ± sample standard deviation over seeds."
    return _table(["Method", *(f"{ratio:g}" for ratio in ratios)], body) + f"\n\n{note}"


def _accuracy_and_loss(row: Row | None) -> str:
    if row is None:
        return NOTHING
    text = _percent(row, "test_accuracy")
    return text if row.get("points_lost") is None else f"{text} ({_loss(row)})"


def _model_table(study: Study) -> str:
    label = labeller(study.rows)
    columns: dict[str, Callable[[Row], str]] = {
        "Method": lambda row: _flagged(label(row), row),
        "Seed": lambda row: str(row.get("seed", NOTHING)),
        "Ratio asked": lambda row: f"{row.get('ratio') or 0:g}",
        "Ratio achieved": lambda row: _number(row.get("ratio_achieved"), "{:.3g}"),
        "States": lambda row: _change(row, "states", _integer),
        "State parameters": lambda row: _change(row, "state_params", _integer),
        "All parameters": lambda row: _change(row, "params", _integer),
        "MACs": lambda row: _change(row, "macs", _integer),
        "Size on disk": lambda row: _change(row, "checkpoint_bytes", _bytes),
        "Latency": lambda row: _change(row, "latency", _milliseconds, suffix="_ms"),
        "Speed-up": _speedup,
        "Working memory": lambda row: _change(row, "temp_bytes", _bytes),
        "Test accuracy": lambda row: _change(row, "test_accuracy", _share),
        "Agreement": lambda row: _share(row.get("agreement")),
        "Data": lambda row: str(row.get("source", NOTHING)),
        "Protocol": lambda row: str(row.get("protocol", NOTHING)),
    }
    table = _table(list(columns), [[cell(row) for cell in columns.values()] for row in study.rows])
    devices = sorted({str(row["device"]) for row in study.rows if row.get("device")})
    notes = ["Agreement: share of test predictions equal to the unpruned model's."]
    if any(row.get("latency_ms") is not None for row in study.rows):
        notes.append(f"Latency measured on {', '.join(devices) or 'an unnamed device'}.")
    else:
        notes.append("Latency was not measured.")
    return f"{table}\n\n{' '.join(notes)}"


def _layer_table(study: Study) -> str:
    label = labeller(study.rows)
    rows = [row for row in _reduced(study.rows) if row.get("orders")]
    depth = max((len(row["orders"]) for row in rows), default=0)
    head = ["Method", "Seed", "Ratio", *(f"Layer {layer}" for layer in range(depth))]
    body = []
    for row in rows:
        full = row.get("orders_full") or [None] * depth
        kept = [
            f"{now:g}" if before is None else f"{now:g}/{before:g}"
            for now, before in zip(row["orders"], full, strict=True)
        ]
        body.append([_flagged(label(row), row), str(row.get("seed", NOTHING)), f"{row.get('ratio') or 0:g}", *kept])
    return _table(head, body)


def _commands(rows: Sequence[Row]) -> str:
    """Returns every command once, under a comment that says what it produced and with which version."""
    label = labeller(rows)
    produced: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.get("command"):
            name = "unpruned" if row["reduction"] == FULL else label(row)
            origin = " ".join(str(row[key]) for key in ("version", "git") if row.get(key))
            comment = f"{name}, seed {row.get('seed', NOTHING)}" + (f", s5c {origin}" if origin else "")
            produced.setdefault(row["command"], {})[comment] = None
    if not produced:
        return "The rows carry no commands."
    blocks = ["".join(f"# {comment}\n" for comment in comments) + command for command, comments in produced.items()]
    return "```bash\n" + "\n\n".join(blocks) + "\n```"


def _flagged(name: str, row: Row) -> str:
    flags = [f"*{MASKED}*"] if row.get("masked_only") else []
    if row.get("protocol") == "paper":
        flags.append(f"⚠ **{ON_TEST}**")
    shown = "unpruned" if row["reduction"] == FULL else f"**{name}**" if row["reduction"] == "last" else name
    return shown + (f" ({'; '.join(flags)})" if flags else "")


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


# ------------------------------------------------------------------------------------------------------------- console


def _sizes(study: Study) -> Table:
    table = Table(title=study.title, title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", width=METHOD_WIDTH)
    for name in ("ratio", "states", "params", "MACs", "disk", "speed-up", "accuracy", "diff", "agree"):
        table.add_column(name, justify="right", no_wrap=True)
    label = labeller(study.rows)
    for name, group in groupby(aggregate(study.rows), key=label):
        rows = list(group)
        heads = _console_name(name, rows[0]).wrap(Console(), METHOD_WIDTH)
        for index, row in enumerate(rows):
            head = heads[index : index + 1] if index < len(rows) - 1 else heads[index:]
            table.add_row(Text("\n").join(head), *_size_cells(row))
        table.add_section()
    table.caption = f"{study.rows[0].get('source', '')}; {_selection(study.rows[0])}"
    return table


def _size_cells(row: Row) -> list[str | Text]:
    accuracy = Text(_percent(row, "test_accuracy"))
    if row.get("protocol") == "paper":
        accuracy.append(" ⚠", style="red")
    return [
        f"{row.get('ratio') or 0:g}",
        _number(row.get("states"), "{:.4g}"),
        _short(row.get("params")),
        _short(row.get("macs")),
        _bytes(row.get("checkpoint_bytes")),
        _number(row.get("speedup"), "{:.2f}×"),
        accuracy,
        "" if row["reduction"] == FULL else Text(_loss(row), style=_colour(row)),
        _number(row.get("agreement"), "{:.1f}%", 100),
    ]


def _accuracies(study: Study) -> Table:
    ratios, grid = _grid(study)
    table = Table(title="test accuracy in %, by share of states removed", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    table.add_column("method", width=METHOD_WIDTH)
    for ratio in ratios:
        table.add_column(f"{ratio:g}", justify="right", no_wrap=True)
    for name, found in grid.items():
        first = next(iter(found.values()))
        table.add_row(_console_name(name, first), *(_coloured_accuracy(found.get(ratio)) for ratio in ratios))
    table.caption = "green: at most 1 point lost, yellow: at most 5, red: more"
    return table


def _console_name(name: str, row: Row) -> Text:
    shown = "unpruned" if row["reduction"] == FULL else name
    text = Text(shown, style="bold" if row["reduction"] == "last" else "")
    if row.get("masked_only"):
        text.append(f"\n{MASKED}", style="dim italic")
    if row.get("protocol") == "paper":
        text.append(f"\n⚠ {ON_TEST}", style="red")
    return text


def _coloured_accuracy(row: Row | None) -> Text:
    if row is None or row.get("test_accuracy") is None:
        return Text(NOTHING, style="dim")
    text = Text(f"{100 * row['test_accuracy']:.1f}", style=_colour(row))
    if row.get("test_accuracy_sd") is not None:
        text.append(f"\n±{100 * row['test_accuracy_sd']:.1f}", style="dim")
    return text


def _colour(row: Row) -> str:
    lost = row.get("points_lost")
    if lost is None or math.isnan(lost):
        return ""
    return "green" if lost <= 1 else "yellow" if lost <= 5 else "red"


# ------------------------------------------------------------------------------------------------- what a cell can hold


def _grid(study: Study) -> tuple[list[float], dict[str, dict[float, Row]]]:
    """Returns the ratios of a study and, for every reduction in it, the averaged row at each of them."""
    methods = by_method(aggregate(study.rows))
    grid = {name: {row["ratio"]: row for row in rows} for name, rows in methods.items()}
    return sorted({ratio for found in grid.values() for ratio in found}), grid


def _reduced(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["reduction"] != FULL]


def _before(row: Row, key: str, suffix: str = "") -> Any:
    return row.get(f"{key}{suffix}") if row["reduction"] == FULL else row.get(f"{key}_full{suffix}")


def _change(row: Row, key: str, show: Callable[[Any], str], suffix: str = "") -> str:
    after, before = row.get(f"{key}{suffix}"), _before(row, key, suffix)
    return show(after) if row["reduction"] == FULL or before is None else f"{show(before)} → {show(after)}"


def _speedup(row: Row) -> str:
    text = _number(row.get("speedup"), "{:.2f}×")
    if row.get("speedup") is not None and row.get("backend"):
        text += f" ({row['backend']})"
    return text if row.get("speedup_best") is None else f"{text}, {row['speedup_best']:.2f}× (best backend)"


def _percent(row: Row, key: str) -> str:
    """Returns a share as percent without its sign, with the standard deviation where rows were averaged."""
    text = _number(row.get(key), "{:.1f}", 100)
    spread = row.get(f"{key}_sd")
    return text if spread is None else f"{text} ± {100 * spread:.1f}"


def _loss(row: Row) -> str:
    """Returns the points lost with the sign of a change in accuracy: a minus where accuracy fell."""
    lost = row.get("points_lost")
    if lost is None or math.isnan(lost):
        return NOTHING
    return "0.0" if abs(lost) < 0.05 else f"{-lost:+.1f}".replace("-", "−")


def _selection(row: Row) -> str:
    return {"paper": ON_TEST, "validation": "selected on validation data"}.get(str(row.get("protocol")), NOTHING)


def _number(value: Any, form: str, factor: float = 1) -> str:
    return NOTHING if value is None else form.format(factor * value)


def _integer(value: Any) -> str:
    return _number(value, "{:,.0f}")


def _share(value: Any) -> str:
    return _number(value, "{:.1f} %", 100)


def _milliseconds(value: Any) -> str:
    return NOTHING if value is None else f"{_digits(value)} ms"


def _bytes(value: Any) -> str:
    return NOTHING if value is None else f"{_short(value, ' ')}B"


def _short(value: Any, space: str = "") -> str:
    """Returns a number with three significant digits and a decimal prefix."""
    if value is None:
        return NOTHING
    prefix = ""
    for larger in "kMGT":
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{_digits(value) if prefix else format(value, '.3g')}{space}{prefix}"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")
