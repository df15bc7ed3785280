"""The tables of a report: Markdown to keep, a console rendering to read at once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from s5c.metric import ACCURACY
from s5c.report import deployment, summary
from s5c.report.arms import label, missed, on_test
from s5c.report.average import means
from s5c.report.cells import (
    HIGHLIGHTED,
    LOADED,
    MASKED,
    NOTHING,
    ON_TEST,
    before,
    change,
    digits,
    disk,
    flagged,
    integer,
    latency,
    loss,
    number,
    percent,
    plain,
    ratio_cell,
    reached,
    reached_change,
    selection,
    share,
    short,
    size,
    speedup,
    table,
)
from s5c.report.collect import Study, studies
from s5c.report.row import FULL, Averaged, Row, value
from s5c.report.scores import column, metric_of, metric_of_all, score, spread

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
        if len(summary.grid(study)[1]) > 1:
            blocks += ["", _accuracies(study)]
    return Group(*blocks)


# ------------------------------------------------------------------------------------------------------------ Markdown


def _section(study: Study) -> str:
    parts: dict[str, str | None] = {f"## {plain(study.title)}": description(study)}
    if any(row["reduction"] != FULL for row in study.rows):
        if summary.grid(study)[0]:
            titled = summary.heading(metric_of_all(study.rows))
            parts[f"### {titled}, by share of states removed"] = summary.accuracies(study)
            parts["### Largest ratio at little cost"] = summary.largest_ratios(study)
        parts["### Other targets"] = summary.other_targets(study)
        parts["### Against LAST"] = summary.above_last(study)
        parts["### States kept per layer"] = _layer_table(study)
        parts["### Errors of the layers"] = summary.layer_errors(study)
    parts["### Models, before → after"] = _model_table(study)
    parts["### On a device"] = deployment.section(study)
    parts["### Notes"] = _notes(study)
    parts["### Commands"] = commands(study.rows)
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items() if text)


def description(study: Study) -> str:
    """Returns data, size, accuracy and protocol of a study's unpruned model as a list."""
    first = study.rows[0]
    orders = first.get("orders_full") or first.get("orders") or []
    mean = means(study)[0]
    metric, name = metric_of(mean), column(mean)
    key = name if mean["reduction"] == FULL else f"{name}_full"
    found = value(mean, key)
    shown = f"{percent(mean, key)} %" if metric.share else NOTHING if found is None else metric.number(found)
    sizes = [integer(before(first, key)) for key in ("states", "params", "state_params")]
    over = f" over {mean['n']} seeds" if mean["n"] > 1 else ", one seed"
    lines = [
        f"- Data: {plain(first.get('source', NOTHING))}",
        f"- Unpruned model: {sizes[0]} states ({' + '.join(f'{n:g}' for n in orders)}), {sizes[1]} parameters, "
        f"{sizes[2]} of them the states'; test {metric.words} {shown}{over}{_interval(mean, key)}",
        f"- Protocol: `{plain(first.get('protocol', NOTHING)).replace('`', '')}`, checkpoints {selection(first)}",
    ]
    if on_test(first):
        lines.append(
            "\n> ⚠ **Selected on test data.** Under `protocol=paper` the checkpoint reported is the one that scored "
            "best on the test set. These accuracies are optimistic and compare only with others obtained that way."
        )
    return "\n".join(lines)


def _interval(row: Row, key: str) -> str:
    """Returns Wilson's 95 % interval of one model's accuracy, where the number of test examples is known."""
    n, p = row.get("test_examples"), value(row, key)
    if not n or p is None or metric_of(row) is not ACCURACY:
        return ""
    z2 = 1.96**2 / n
    centre, half = p + z2 / 2, 1.96 * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    low, high = (100 * (centre + sign * half) / (1 + z2) for sign in (-1, 1))
    return f" (95 % interval of one model on {n:,.0f} examples: {low:.1f} to {high:.1f})"


def _model_table(study: Study) -> str:
    columns: dict[str, Callable[[Averaged], str]] = {
        "Arm": lambda row: flagged(label(row), row),
        "Seeds": _seeds,
        "Ratio asked": lambda row: f"{row.get('ratio') or 0:g}",
        "Ratio achieved": lambda row: number(row.get("ratio_achieved"), "{:.3g}"),
        "States": lambda row: change(row, "states", integer),
        "State parameters": lambda row: change(row, "state_params", integer),
        "All parameters": lambda row: change(row, "params", integer),
        "MACs": lambda row: change(row, "macs", integer),
        "Arrays": lambda row: change(row, "array_bytes", size),
        "Size on disk": _disk_change,
        "Batch": lambda row: number(row.get("latency_batch_size"), "{:.0f}"),
        "Latency": latency,
        "Speed-up": speedup,
        "Working memory": lambda row: change(row, "temp_bytes", size),
        f"Test {metric_of_all(study.rows).words}": reached_change,
        "Agreement": lambda row: share(row.get("agreement")),
        "Data": lambda row: str(row.get("source", NOTHING)),
        "Protocol": lambda row: str(row.get("protocol", NOTHING)),
    }
    for title, key in (("Arrays", "array_bytes"), ("Batch", "latency_batch_size")):  # rows of before schema 2 have none
        if all(value(row, key) is None for row in study.rows):
            del columns[title]
    body = [[cell(row) for cell in columns.values()] for row in means(study)]
    notes = ["Agreement: share of test predictions equal to the unpruned model's."]
    if metric_of_all(study.rows) is not ACCURACY:
        notes = ["Agreement: fit of the answers to the unpruned model's, 1 - |difference| / |theirs less their mean|."]
    if any(row.get("safetensors_bytes") is not None for row in study.rows):
        notes.append("Size on disk: one safetensors file of the weights; arrays: its numbers alone.")
    return f"{table(list(columns), body)}\n\n{' '.join([*notes, *_of_latency(study)])}"


def _disk_change(row: Row) -> str:
    before, after = disk(row, "_full"), disk(row)
    return size(after) if row["reduction"] == FULL or before is None else f"{size(before)} → {size(after)}"


def _of_latency(study: Study) -> list[str]:
    """Returns sentences on where latency was measured, how, and whether the machine had other work to do."""
    timed = [row for row in study.rows if row.get("latency_ms") is not None]
    if not timed:
        return ["Latency was not measured."]
    devices = sorted({str(row.get("latency_device") or row["device"]) for row in timed if row.get("device")})
    notes = [f"Latency measured on {plain(', '.join(devices)) or 'an unnamed device'}."]
    if any(row.get("latency_quartiles_ms") for row in timed):
        rounds = sorted({count for row in timed if (count := row.get("latency_rounds"))})
        told = " or ".join(f"{count:g}" for count in rounds)
        notes.append(f"Median of {told} rounds, in parentheses the quartiles; the speed-up is a ratio of medians.")
    busiest = max((row.get("load_others") or 0.0 for row in timed), default=0.0)
    if busiest > LOADED:
        notes.append(
            f"⚠ **Measured on a loaded machine**: other processes took up to {100 * busiest:.0f} % of the processors."
        )
    return notes


def _layer_table(study: Study) -> str:
    rows = [row for row in means(study) if row["reduction"] != FULL and row.get("orders")]
    depth = max((len(row["orders"]) for row in rows), default=0)
    head = ["Arm", "Seeds", "Ratio", *(f"Layer {layer}" for layer in range(depth))]
    body = []
    for row in rows:
        full: Sequence[float | None] = row.get("orders_full") or [None] * depth
        kept = [
            f"{now:.3g}" if before is None else f"{now:.3g}/{before:.3g}"
            for now, before in zip(row["orders"], full, strict=True)
        ]
        body.append([flagged(label(row), row), _seeds(row), ratio_cell(row), *kept])
    return table(head, body)


def _seeds(row: Averaged) -> str:
    return ", ".join(map(str, row["seeds"])) or NOTHING


def _notes(study: Study) -> str | None:
    notes = {f"- {plain(label(row))}: {plain(note)}": None for row in study.rows for note in row.get("notes") or []}
    return "\n".join(notes) or None


def commands(rows: Sequence[Row]) -> str:
    """Returns every command once, under a comment that says what it produced and with which version."""
    produced: dict[str, dict[str, dict[str, None]]] = {}
    for row in rows:
        if row.get("command"):
            origin = " ".join(str(told) for key in ("version", "git") if (told := value(row, key)))
            seed = f"seed {row.get('seed', NOTHING)}" + (f", s5c {origin}" if origin else "")
            produced.setdefault(row["command"], {}).setdefault(seed, {})[label(row)] = None
    if not produced:
        return "The rows carry no commands."
    blocks = []
    for command, origins in produced.items():
        said = (" ".join(f"# {', '.join(names)}; {seed}".splitlines()) for seed, names in origins.items())
        blocks.append("".join(f"{line}\n" for line in said) + command)
    text = "\n\n".join(blocks)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)  # no command can end the block
    return f"{fence}bash\n{text}\n{fence}"


# ------------------------------------------------------------------------------------------------------------- console


def _sizes(study: Study) -> Table:
    title = Text(study.title)  # text as it is: names may look like markup
    printed = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    printed.add_column("arm", width=METHOD_WIDTH, overflow="fold")
    name_of_score = metric_of_all(study.rows).words
    held = "weights" if any(_by_weights(row) for row in study.rows) else "disk"
    for name in ("ratio", "states", "params", "MACs", held, "speed-up", name_of_score, "diff", "agree"):
        printed.add_column(name, justify="right", no_wrap=True)
    for name, group in groupby(means(study), key=label):
        rows = list(group)
        heads = _console_name(name, rows[0]).wrap(Console(), METHOD_WIDTH)
        for index, row in enumerate(rows):
            head = heads[index : index + 1] if index < len(rows) - 1 else heads[index:]
            printed.add_row(Text("\n").join(head), *_size_cells(row, held))
        printed.add_section()
    printed.caption = Text("; ".join([str(study.rows[0].get("source", "")), selection(study.rows[0]), *_timing(study)]))
    return printed


def _timing(study: Study) -> list[str]:
    """Returns how the times under the speed-ups were measured, for the caption."""
    timed = [row for row in study.rows if row.get("latency_quartiles_ms")]
    if not timed:
        return []
    sizes = {count for row in timed if (count := row.get("latency_batch_size"))}
    batches = " or ".join(map(str, sorted(sizes)))
    busiest = max(row.get("load_others") or 0.0 for row in timed)
    loaded = [f"⚠ machine loaded to {100 * busiest:.0f} % by others"] if busiest > LOADED else []
    return [f"under the speed-up: ms a batch of {batches}, median ± half the interquartile range", *loaded]


def _by_weights(row: Row) -> bool:
    """Returns whether the numbers of the weights are of interest, and not what names and shapes in a file add."""
    return (row.get("bits") or 32) != 32 or str(row.get("target", "")).startswith("bytes")


def _size_cells(row: Averaged, held: str) -> list[str | Text]:
    accuracy = Text(reached(row))
    if on_test(row):
        accuracy.append(" ⚠", style="red")
    return [
        ratio_cell(row).replace(" → ", "\n→"),
        number(row.get("states"), "{:.4g}"),
        short(row.get("params")),
        short(row.get("macs")),
        size(row.get("array_bytes") if held == "weights" else disk(row)),
        _speed(row),
        accuracy,
        "" if row["reduction"] == FULL else Text(loss(row), style=_colour(row)),
        number(row.get("agreement"), "{:.1f}%", 100),
    ]


def _speed(row: Averaged) -> Text:
    """Returns the speed-up and, where their spread was kept, the milliseconds under it."""
    text, quartiles = Text(number(row.get("speedup"), "{:.2f}×")), row.get("latency_quartiles_ms")
    if (median := row.get("latency_ms")) is not None and quartiles and None not in quartiles:
        text.append(f"\n{digits(median)}±{(quartiles[1] - quartiles[0]) / 2:.1g}", style="dim")
    return text


def _accuracies(study: Study) -> Table:
    ratios, arms = summary.grid(study)
    metric = metric_of_all(study.rows)
    titled = summary.heading(metric).replace("Test", "test", 1)
    printed = Table(title=f"{titled}, by share of states removed", box=box.SIMPLE_HEAD, pad_edge=False)
    printed.padding = (0, 1, 0, 0)
    printed.add_column("arm", width=METHOD_WIDTH, overflow="fold")
    for ratio in ratios:
        printed.add_column(f"{ratio:g}", justify="right", no_wrap=True)
    for name, found in arms.items():
        first = next(iter(found.values()))
        printed.add_row(_console_name(name, first), *(_coloured_accuracy(found.get(ratio)) for ratio in ratios))
    unit = "point" if metric.share else "%"
    printed.caption = f"best first; green: at most 1 {unit} lost, yellow: at most 5, red: more"
    if any(missed(row) is not None for found in arms.values() for row in found.values()):
        printed.caption += "; in brackets: the share really removed"
    return printed


def _console_name(name: str, row: Row) -> Text:
    text = Text(name, style="bold" if name in HIGHLIGHTED else "")
    if row.get("masked_only"):
        text.append(f"\n{MASKED}", style="dim italic")
    if on_test(row):
        text.append(f"\n⚠ {ON_TEST}", style="red")
    return text


def _coloured_accuracy(row: Averaged | None) -> Text:
    accuracy = None if row is None else score(row)
    if row is None or accuracy is None:
        return Text(NOTHING, style="dim")
    metric = metric_of(row)
    text = Text(metric.number(accuracy), style=_colour(row))
    if (deviation := spread(row)) is not None:
        text.append(f"\n±{f'{100 * deviation:.1f}' if metric.share else f'{deviation:.2g}'}", style="dim")
    if (found := missed(row)) is not None:
        text.append(f"\n[{found:.3g}]", style="dim")
    return text


def _colour(row: Averaged) -> str:
    lost = row.get("points_lost")
    if lost is None or math.isnan(lost):
        return ""
    return "green" if lost <= 1 else "yellow" if lost <= 5 else "red"
