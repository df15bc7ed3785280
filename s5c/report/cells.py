"""What a cell of a table can hold, as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from s5c.report.arms import missed, on_test
from s5c.report.row import FULL, Averaged, Row, value
from s5c.report.scores import column, metric_of, score, spread

NOTHING = "–"
MASKED = "masked only: nothing gets smaller"
ON_TEST = "selected on test data"
HIGHLIGHTED = ("last", "calibrated")
LOADED = 0.1
"""Share of the processors' time taken by other processes from which on a timing is not to be trusted."""


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table, numbers to the right of the first column."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(plain(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def plain(text: Any) -> str:
    """Returns text of rows, which anybody may have written, for Markdown: one line, and neither HTML nor a link."""
    line = " ".join(str(text).splitlines())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def flagged(name: str, row: Row) -> str:
    """Returns the name of an arm with what must be said wherever it stands."""
    flags = [f"*{MASKED}*"] if row.get("masked_only") else []
    if on_test(row):
        flags.append(f"⚠ **{ON_TEST}**")
    shown = f"**{name}**" if name in HIGHLIGHTED else name
    return shown + (f" ({'; '.join(flags)})" if flags else "")


def change(row: Row, key: str, show: Callable[[Any], str], suffix: str = "") -> str:
    """Returns a quantity before and after."""
    after, earlier = value(row, f"{key}{suffix}"), before(row, key, suffix)
    return show(after) if row["reduction"] == FULL or earlier is None else f"{show(earlier)} → {show(after)}"


def before(row: Row, key: str, suffix: str = "") -> Any:
    """Returns a quantity of the unpruned model."""
    return value(row, f"{key}{suffix}" if row["reduction"] == FULL else f"{key}_full{suffix}")


def ratio_cell(row: Row) -> str:
    """Returns the ratio asked for and, where it is another, the one that came of it."""
    asked, found = f"{row.get('ratio') or 0:.3g}", missed(row)
    return asked if found is None else f"{asked} → {found:.3g}"


def disk(row: Row, suffix: str = "") -> Any:
    """Returns the bytes of a model's file; in rows of before schema 2 those of a folder of arrays."""
    found = value(row, f"safetensors_bytes{suffix}")
    return value(row, f"checkpoint_bytes{suffix}") if found is None else found


def latency(row: Row) -> str:
    """Returns the latency before and after, and its quartiles over the rounds where they were kept."""
    text, quartiles = change(row, "latency", milliseconds, suffix="_ms"), row.get("latency_quartiles_ms")
    if row.get("latency_ms") is None or not quartiles or None in quartiles:
        return text
    return f"{text} ({digits(quartiles[0])} to {digits(quartiles[1])})"


def speedup(row: Row) -> str:
    """Returns the speed-up with the backend it was measured on."""
    text = number(row.get("speedup"), "{:.2f}×")
    if row.get("speedup") is not None and row.get("backend"):
        text += f" ({row['backend']})"
    return text if row.get("speedup_best") is None else f"{text}, {row['speedup_best']:.2f}× (best backend)"


def percent(row: Row, key: str) -> str:
    """Returns a share as percent without its sign, with the standard deviation where rows were averaged."""
    text = number(value(row, key), "{:.1f}", 100)
    spread = value(row, f"{key}_sd")
    return text if spread is None else f"{text} ± {100 * spread:.1f}"


def reached(row: Row) -> str:
    """Returns the score of a network on the test split, with the standard deviation where rows were averaged."""
    if metric_of(row).share:
        return percent(row, column(row))
    found, deviation = score(row), spread(row)
    text = NOTHING if found is None else metric_of(row).number(found)
    return text if deviation is None else f"{text} ± {deviation:.2g}"


def reached_change(row: Row) -> str:
    """Returns the score before and after."""
    show = share if metric_of(row).share else lambda found: NOTHING if found is None else metric_of(row).number(found)
    return change(row, column(row), show)


def loss(row: Averaged) -> str:
    """Returns the points lost with the sign of a change in accuracy: a minus where accuracy fell."""
    lost = row.get("points_lost")
    return NOTHING if lost is None or math.isnan(lost) else signed(-lost)


def signed(points: float) -> str:
    """Returns a difference in points with its sign."""
    return "0.0" if abs(points) < 0.05 else f"{points:+.1f}".replace("-", "−")


def selection(row: Row) -> str:
    """Returns what the checkpoint was selected on, in words."""
    known = dict.fromkeys(("paper", "validation"), "selected on validation data")
    return ON_TEST if on_test(row) else known.get(str(row.get("protocol")), NOTHING)


def number(quantity: Any, form: str, factor: float = 1) -> str:
    """Returns a formatted number, or a dash."""
    return NOTHING if quantity is None or math.isnan(quantity) else form.format(factor * quantity)


def integer(quantity: Any) -> str:
    """Returns a whole number with separators."""
    return number(quantity, "{:,.0f}")


def share(quantity: Any) -> str:
    """Returns a share in percent."""
    return number(quantity, "{:.1f} %", 100)


def milliseconds(quantity: Any) -> str:
    """Returns a time given in milliseconds."""
    return NOTHING if quantity is None else f"{digits(quantity)} ms"


def seconds(quantity: Any) -> str:
    """Returns a time given in seconds; nothing for what was not done."""
    if quantity is None or quantity < 1e-4:  # reading the clock
        return NOTHING
    return f"{quantity:.2g} s" if quantity < 100 else f"{quantity:,.0f} s"


def size(quantity: Any) -> str:
    """Returns bytes."""
    return NOTHING if quantity is None else f"{short(quantity, ' ')}B"


def short(quantity: Any, space: str = "") -> str:
    """Returns a number with three significant digits and a decimal prefix."""
    if quantity is None:
        return NOTHING
    prefix = ""
    for larger in "kMGT":
        if quantity < 999.5:
            break
        quantity, prefix = quantity / 1000, larger
    return f"{digits(quantity) if prefix else format(quantity, '.3g')}{space}{prefix}"


def digits(quantity: float) -> str:
    """Returns three significant digits, all of them before the point."""
    return f"{quantity:#.3g}".rstrip(".") if quantity < 999.5 else f"{quantity:,.0f}"
