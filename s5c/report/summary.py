"""What a study comes to: accuracies by ratio, how much may be removed, what it costs and how far the layers are off."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from s5c.metric import Metric
from s5c.report import cells
from s5c.report.arms import FLOORS, best_first, by_arm, missed, target
from s5c.report.average import means
from s5c.report.cells import NOTHING, flagged, number, table
from s5c.report.collect import Study
from s5c.report.row import FULL, Averaged, value
from s5c.report.scores import column, metric_of_all, score
from s5c.report.standing import change_error, lead

RANDOM = "random"
"""The arm that every method should be ahead of."""
ALLOWED = (0.5, 1.0)
"""Points of accuracy that may be lost."""


def grid(study: Study) -> tuple[list[float], dict[str, dict[float, Averaged]]]:
    """Returns the ratios asked for in a study and, for every arm, best first, the averaged row at each of them."""
    arms = by_arm(means(study))
    found = {}
    for name in best_first(arms):
        rows = {row["ratio"]: row for row in arms[name] if _asked_a_ratio(row)}
        if rows:
            found[name] = rows
    return sorted({ratio for rows in found.values() for ratio in rows}), found


def _unit(metric: Metric, count: float) -> str:
    return f"point{'s' * (count != 1)}" if metric.share else "%"


def heading(metric: Metric) -> str:
    """Returns the title of a column of scores."""
    return f"Test {metric.words}{' in %' if metric.share else ''}"


def accuracies(study: Study, ratios: Sequence[float] = ()) -> str:
    """Returns the table of test accuracies, or of the metric of the task, by ratio, arms sorted by quality.

    Args:
        study: The rows.
        ratios: Which columns; empty for all.
    """
    tested, arms = grid(study)
    columns = [ratio for ratio in tested if not ratios or ratio in ratios]
    body = []
    for name, rows in arms.items():
        first = next(iter(rows.values()))
        body.append([flagged(name, first), *(_accuracy_and_loss(rows.get(ratio)) for ratio in columns)])
    shown = [row for rows in arms.values() for row in rows.values()]
    metric = metric_of_all(study.rows)
    notes = [f"In parentheses: change against the unpruned model, in {metric.points}."]
    if not metric.share:
        notes[0] = f"In parentheses: change against the unpruned model, in % of its {metric.words}, above 0 if better."
    if any(row["n"] > 1 for row in shown):
        notes[0] += " Mean ± sample standard deviation over seeds."
    if told := _of_errors(shown):
        notes.append(told)
    if any(column(row) in row and score(row) is None for row in shown):
        notes.append(
            f"{NOTHING} at a ratio that was tested: not all answers of that network are finite numbers; see the notes."
        )
    notes.append("Best first: by mean lead over the average arm at the same ratio.")
    if any(missed(row) is not None for row in shown):
        notes.append("In brackets: the share really removed, where it is another: some states have to stay.")
    if told := _behind_random(arms, columns):
        notes.append(told)
    return table(["Arm", *(f"{ratio:g}" for ratio in columns)], body) + f"\n\n{' '.join(notes)}"


def _behind_random(arms: Mapping[str, Mapping[float, Averaged]], columns: Sequence[float]) -> str:
    """Returns the sentence on methods that states drawn at random are ahead of; nothing if there are none."""
    drawn = next((rows for rows in arms.values() if next(iter(rows.values()))["reduction"] == RANDOM), {})
    found: dict[str, list[str]] = {}
    for name, rows in arms.items():
        for ratio in columns:
            if ratio not in rows or ratio not in drawn or rows[ratio]["reduction"] in FLOORS:
                continue
            ahead = lead(rows[ratio], drawn[ratio])
            if ahead is not None and ahead.sign < 0:
                found.setdefault(name, []).append(f"{ratio:g}")
    listed = "; ".join(f"{name} at {', '.join(ratios)}" for name, ratios in found.items())
    return f"⚠ Behind states drawn at random, by more than two standard errors: {listed}." if listed else ""


def other_targets(study: Study) -> str | None:
    """Returns the table of reductions that were asked for something else than a ratio, or None without any."""
    body = []
    by_parameters = any(target(row)[0] == "params" for row in study.rows)
    for name, rows in by_arm(means(study)).items():
        for row in rows:
            if not _asked_a_ratio(row):
                asked = (
                    f"max_drop {row['max_drop']:g}"
                    if row.get("max_drop") is not None
                    else target(row)[1].replace("-", " ", 1)
                )
                achieved = [number(row.get("params_achieved"), "{:.3g}")] if by_parameters else []
                cells_ = [asked, *achieved, number(row.get("ratio_achieved"), "{:.3g}"), _accuracy_and_loss(row)]
                body.append([flagged(name, row), *cells_])
    if not body:
        return None
    titles = [*(["Parameters removed"] if by_parameters else []), "Ratio achieved", heading(metric_of_all(study.rows))]
    return table(["Arm", "Target", *titles], body)


def largest_ratios(study: Study) -> str:
    """Returns the table of the largest ratios that cost little, and the seconds that arms take."""
    arms = {name: list(rows.values()) for name, rows in grid(study)[1].items()}
    arms = {name: rows for name, rows in arms.items() if not rows[0].get("masked_only")}
    metric = metric_of_all(study.rows)
    columns: dict[str, Callable[[list[Averaged]], str]] = {
        f"≤ {allowed:g} {_unit(metric, allowed)} lost": lambda rows, a=allowed: _ratio(largest(rows, a))  # type: ignore[misc]
        for allowed in ALLOWED
    }
    if any(row.get("val_points_lost") is not None for rows in arms.values() for row in rows):
        columns["chosen on validation, ≤ 0.5"] = _chosen_on_validation
    for title, key in (("Reduction", "reduction"), ("Calibration", "calibration"), ("Training", "training")):
        if any(value(row, f"seconds_{key}") for rows in arms.values() for row in rows):
            columns[title] = lambda rows, k=f"seconds_{key}": cells.seconds(median(rows, k))  # type: ignore[misc]
    body = [[flagged(name, rows[0]), *(cell(rows) for cell in columns.values())] for name, rows in arms.items()]
    note = (
        "The largest ratio tested such that it and every smaller one tested lose no more, on average over seeds. "
        "Times: median over ratios, of one reduction each."
    )
    if "chosen on validation, ≤ 0.5" in columns:
        note += f" Chosen on validation: the same rule on validation {metric.words}; "
        note += "in parentheses what that costs on test."
    return table(["Arm", *columns], body) + f"\n\n{note}"


def largest(rows: Sequence[Averaged], allowed: float, key: str = "points_lost") -> Averaged | None:
    """Returns the row of the largest ratio such that it and all smaller ones lose at most `allowed` points.

    Args:
        rows: Averaged rows of one arm.
        allowed: Points.
        key: Which loss.
    """
    found = None
    for row in sorted(rows, key=lambda row: row["ratio"]):
        if (lost := value(row, key)) is None or lost > allowed + 1e-9:
            break
        found = row
    return found


def median(rows: Sequence[Averaged], key: str) -> float | None:
    """Returns the median of a number over those rows that have it."""
    values = [found for row in rows if (found := value(row, key)) is not None]
    return statistics.median(values) if values else None


def above_last(study: Study) -> str | None:
    """Returns the table of paired differences to plain LAST, or None where answers were not stored."""
    ratios, arms = grid(study)
    body = []
    for name, rows in arms.items():
        found = [rows.get(ratio, {}) for ratio in ratios]
        if name != "last" and any(row.get("above_last") is not None for row in found):
            body.append([flagged(name, next(iter(rows.values()))), *map(_above, found)])
    if not body:
        return None
    unit = "Points" if metric_of_all(study.rows).share else "Percent of LAST's error"
    note = f"{unit} above plain LAST at the same ratio ± paired standard error of one model over draws of the test set."
    return table(["Arm", *(f"{ratio:g}" for ratio in ratios)], body) + f"\n\n{note}"


def layer_errors(study: Study) -> str | None:
    """Returns the table of the layers' errors at the ratio that most arms were tested at, or None without any."""
    rows = [row for row in means(study) if row["reduction"] != FULL and row.get("error_h2")]
    if not rows:
        return None
    counted = Counter(row["ratio"] for row in rows)
    ratio = max(counted, key=lambda ratio: (counted[ratio], -abs(ratio - 0.6)))
    arms = by_arm(row for row in rows if row["ratio"] == ratio)
    depth = max(len(row["error_h2"]) for found in arms.values() for row in found)
    body = [
        [flagged(name, found[0]), *(_error(found[0], layer) for layer in range(depth))] for name, found in arms.items()
    ]
    note = (
        f"At ratio {ratio:g}: relative H2 error ‖G − Gᵣ‖₂ / ‖G‖₂ of the layer's linear system; where computed, after "
        "the semicolon its H-infinity error, and the a-priori bound on that where the method has one."
    )
    if any(row.get("error_h2_quadratic") for found in arms.values() for row in found[:1]):
        note += (
            " In parentheses: the relative h2 error ‖S − Sᵣ‖ / ‖S‖ of the layer with its gate as a linear system with "
            "quadratic outputs, which LQO minimises: ‖S‖² = tr(L V Lᵀ) + w Σᵢ tr(V Nᵢ V Nᵢ), V the covariance of the "
            "linear outputs under white noise, L and Nᵢ the gate's linear and quadratic part, w = reduction.quadratic."
        )
    return table(["Arm", *(f"Layer {layer}" for layer in range(depth))], body) + f"\n\n{note}"


def _asked_a_ratio(row: Averaged) -> bool:
    return target(row)[0] == "ratio" and row.get("max_drop") is None


def _accuracy_and_loss(row: Averaged | None) -> str:
    if row is None:
        return NOTHING
    text, found = cells.reached(row), missed(row)
    really = "" if found is None else f" [{found:.3g}]"
    if row.get("points_lost") is None:
        return text + really
    error = change_error(row)
    return f"{text} ({cells.loss(row)}{'' if error is None else f' ± {error:.1f}'}){really}"


def _of_errors(rows: Sequence[Averaged]) -> str:
    """Returns the sentence on what stands behind ± inside the parentheses; nothing if nothing does."""
    known = [row for row in rows if change_error(row) is not None]
    over = {row["n"] > 1 for row in known}
    told = {
        True: "standard error of the change, paired by seed, over seeds",
        False: "paired standard error of one model over draws of the test set",
    }
    parts = [text for several, text in told.items() if several in over]
    return f"± inside the parentheses: {'; of a single seed '.join(parts)}." if parts else ""


def _ratio(row: Averaged | None) -> str:
    return "0" if row is None else cells.ratio_cell(row)


def _chosen_on_validation(rows: list[Averaged]) -> str:
    found = largest(rows, ALLOWED[0], "val_points_lost")
    return "0" if found is None else f"{cells.ratio_cell(found)} ({cells.loss(found)})"


def _above(row: Averaged) -> str:
    if row.get("above_last") is None:
        return NOTHING
    return f"{cells.signed(row['above_last'])} ± {row['above_last_se']:.1f}"


def _error(row: Averaged, layer: int) -> str:
    def at(key: str) -> float | None:
        values = value(row, key) or []
        return values[layer] if layer < len(values) else None

    text, peak, bound = number(at("error_h2"), "{:.3g}"), number(at("error_hinf"), "{:.3g}"), at("error_bound")
    if (quadratic := at("error_h2_quadratic")) is not None:
        text += f" ({number(quadratic, '{:.3g}')})"
    if peak == NOTHING:
        return text
    return f"{text}; {peak}" + (f" ≤ {bound:.3g}" if bound is not None else "")
