"""One HTML page that holds a whole report: curves to hover and toggle, states per layer, a table to sort."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s5c.metric import ACCURACY
from s5c.report.arms import best_first, by_arm, removed
from s5c.report.average import means
from s5c.report.cells import HIGHLIGHTED
from s5c.report.collect import Study, studies
from s5c.report.looks import PALETTE, Look, look_of
from s5c.report.row import Averaged, Row
from s5c.report.scores import full_score, metric_of, metric_of_all, score, spread
from s5c.report.standing import change_error
from s5c.report.tables import description
from s5c.report.titles import title

PLACE = '<script type="application/json" id="data">{}</script>'
DASHES = {"-": "none", "--": "6 3", ":": "2 3"}


def page(rows: Sequence[Row]) -> str:
    """Returns the page; it loads nothing from anywhere.

    Args:
        rows: Rows as `collect` returns them.
    """
    data = json.dumps({"studies": [_study(study) for study in studies(rows)]}, allow_nan=False, ensure_ascii=False)
    template = Path(__file__).with_suffix(".html").read_text("utf-8")
    return template.replace(PLACE, PLACE.replace("{}", data.replace("<", "\\u003c")))


def _study(study: Study) -> dict[str, Any]:
    averaged = means(study)
    arms = by_arm(averaged)
    return {
        "title": study.title,
        "words": title(study),
        "about": " · ".join(
            html.unescape(line.removeprefix("- ").replace("`", "")) for line in description(study).splitlines() if line
        ),
        "accuracy": _told(averaged[-1], full_score(averaged[-1])),
        **_metric(study),
        "latency": _finite(averaged[-1].get("latency_full_ms")),
        "arms": [_arm(name, arms[name]) for name in best_first(arms)],
    }


def _arm(name: str, rows: Sequence[Averaged]) -> dict[str, Any]:
    look = look_of(rows[0])
    return {
        "name": name,
        "color": "var(--ink)" if look.color == PALETTE["last"].color else look.color,
        "dash": _dash(look),
        "width": look.width,
        "masked": bool(rows[0].get("masked_only")),
        "highlighted": name in HIGHLIGHTED,
        "points": [_point(row) for row in sorted(rows, key=lambda row: row["ratio"])],
    }


def _dash(look: Look) -> str:
    if isinstance(look.linestyle, str):
        return DASHES[look.linestyle]
    return " ".join(f"{2 * part:g}" for part in look.linestyle[1])


def _point(row: Averaged) -> dict[str, Any]:
    errors = [error for error in row.get("error_h2") or [] if _finite(error) is not None]
    return {
        "ratio": removed(row),
        "accuracy": _told(row, score(row)),
        "sd": _told(row, spread(row)),
        "lost": _finite(row.get("points_lost")),
        "se": _finite(change_error(row)),
        "agreement": _percent(row.get("agreement")),
        "states": row.get("states"),
        "params": row.get("params"),
        "orders": row.get("orders") if row.get("orders_full") else None,
        "of": row.get("orders_full"),
        "latency": _finite(row.get("latency_ms")),
        "speedup": _finite(row.get("speedup")),
        "seconds": _finite(row.get("seconds_reduction")),
        "h2": sum(errors) / len(errors) if errors else None,
        "n": row["n"],
    }


def _metric(study: Study) -> dict[str, Any]:
    """Returns what the page must know of a metric that is not accuracy."""
    metric = metric_of_all(study.rows)
    if metric is ACCURACY:
        return {}
    title = f"{metric.heading} ({metric.direction})"
    found = {"title": title[0].upper() + title[1:], "unit": metric.unit, "higher": metric.higher, "words": metric.words}
    return {"metric": found}


def _told(row: Row, value: Any) -> float | None:
    return None if _finite(value) is None else metric_of(row).factor * value


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _percent(value: Any) -> float | None:
    return None if _finite(value) is None else 100 * value
