"""Leads of arms over each other, what is said of them in words, and the test examples nobody has looked at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from s5c.data.part import scored
from s5c.errors import UserError
from s5c.report import fields, unseen
from s5c.report.arms import label
from s5c.report.average import aggregate
from s5c.report.paired import difference
from s5c.report.row import Row
from s5c.report.standing import change_error, lead, lead_table, standing

RATIOS = (0.5, 0.8, 0.9)


def row(arm: str, ratio: float, accuracy: float, seed: int = 0, **changes: Any) -> Row:
    reduction, _, changed = arm.partition(" ")
    return {
        "schema": 2, "task": "digits", "model": "s5", "experiment": "demo", "seed": seed, "protocol": "validation",
        "reduction": reduction, "arm": arm, "settings": {"method": reduction, "changed": changed}, "differences": {},
        "ratio": ratio, "target": f"ratio {ratio}", "trained_id": str(seed), "orders": [4], "test_accuracy": accuracy,
        "test_accuracy_full": 0.9, "test_examples": 1000, "val_loss": 0.5, **changes,
    }  # fmt: skip


def of_seeds(arm: str, ratio: float, accuracies: tuple[float, ...]) -> list[Row]:
    return [row(arm, ratio, accuracy, seed) for seed, accuracy in enumerate(accuracies)]


def averaged(*rows: Row) -> dict[str, Row]:
    return {label(one): one for one in aggregate(rows)}


def test_a_lead_is_paired_by_seed() -> None:
    """Both arms vary by 10 points over seeds, and one is ahead on every seed by about one."""
    rows = averaged(*of_seeds("h2", 0.5, (0.81, 0.71, 0.612)), *of_seeds("last", 0.5, (0.80, 0.70, 0.60)))
    found = lead(rows["h2"], rows["last"])
    ahead = np.array([1.0, 1.0, 1.2])
    assert found.points == pytest.approx(ahead.mean()) and found.models == 3 and found.sign == 1
    assert found.error == pytest.approx(ahead.std(ddof=1) / math.sqrt(3))
    back = lead(rows["last"], rows["h2"])
    assert back.sign == -1 and back.points == pytest.approx(-found.points)
    assert change_error(rows["last"]) == pytest.approx(10 / math.sqrt(3))


def test_of_one_seed_the_lead_has_the_errors_of_both_over_draws_of_the_test_set() -> None:
    rows = averaged(row("h2", 0.5, 0.82, points_lost_se=0.3), row("last", 0.5, 0.81, points_lost_se=0.4))
    found = lead(rows["h2"], rows["last"])
    assert (found.points, found.error) == (pytest.approx(1.0), pytest.approx(0.5)) and found.sign == 0
    assert str(found) == "+1.0 ± 0.5" and change_error(rows["h2"]) == 0.3
    other = averaged(row("h2", 0.5, 0.82, seed=1))["h2"]
    assert lead(other, rows["last"]) is None, "no model was reduced by both"
    unknown = averaged(row("h2", 0.5, 0.82, test_examples=None))["h2"]
    assert lead(unknown, rows["last"]).error is None and lead(unknown, rows["last"]).sign == 0


@pytest.fixture
def compared() -> list[Row]:
    """`h2` is best at 0.5, within noise of `last` at 0.8, and behind it at 0.9."""
    found = [*of_seeds("h2", 0.5, (0.89, 0.88, 0.87)), *of_seeds("last", 0.5, (0.80, 0.80, 0.79))]
    found += [*of_seeds("h2", 0.8, (0.79, 0.80, 0.81)), *of_seeds("last", 0.8, (0.81, 0.80, 0.80))]
    found += [*of_seeds("h2", 0.9, (0.50, 0.51, 0.52)), *of_seeds("last", 0.9, (0.60, 0.61, 0.61))]
    return aggregate([*found, *of_seeds("random", 0.9, (0.1, 0.1, 0.1))])


def test_where_an_arm_stands_is_said_in_words(compared: list[Row]) -> None:
    text = standing(compared, "h2", ["last", "random"], ["0.5", "0.8", "0.9"])
    assert text == "best or within noise of the best up to 0.8, at 0.9 behind `last` (−9.7 ± 0.3 points)"
    assert standing(compared, "h2", ["last"], ["0.5", "0.8"]).endswith("at every ratio from 0.5 to 0.8")
    assert standing(compared, "random", ["last"], ["0.9"]).startswith("at 0.9 behind `last`")
    with pytest.raises(UserError, match="Did you mean 'last'"):
        standing(compared, "h2", ["lats"], ["0.5"])
    with pytest.raises(UserError, match="not compared there"):
        standing(compared, "h2", ["random"], ["0.5"])


def test_the_table_of_leads_shows_who_is_ahead_where_others_win(compared: list[Row]) -> None:
    lines = lead_table({"digits": compared}, "h2", ["last", "random", "elsewhere"], ["0.5", "0.9", "0.95"]).splitlines()
    assert lines[2] == "| digits | +8.3 ± 0.3 (last) | **−9.7 ± 0.3** (last) | – |"


# ---- fields of templates


def test_fields_take_the_first_arm_that_is_stored_and_mark_the_second() -> None:
    rows = aggregate([row("last +protect", 0.8, 0.5), row("h2", 0.8, 0.6, orders=[3, 5])])
    assert fields.of_rows(rows, "last / last +protect", ["0.8"]) == "50.0†"
    assert fields.of_rows(rows, "h2 / last +protect", ["0.8"]) == "60.0"
    assert fields.of_rows(rows, "lqo / –", ["0.8", "0.9"]) == "– | –"
    assert fields.of_rows(rows, "h2", ["0.8"], "orders", ".0f") == "3 to 5"
    assert fields.of_rows(rows, "h2", ["0.8"], "orders.1", ".0f") == "5"
    with pytest.raises(UserError, match="Unknown arm"):
        fields.of_rows(rows, "last", ["0.8"])


def test_rows_of_before_the_published_formulas_are_named_as_long_as_there_are_no_others() -> None:
    old = [row("last +protect", 0.8, 0.5), row("h2", 0.8, 0.6)]
    text = fields.older({"a": old, "b": [row("last", 0.8, 0.5)]})
    assert "`a`" in text and "`b`" not in text and "not been run there yet" in text
    assert "not been run" not in fields.older({"a": [*old, row("last", 0.8, 0.4)]})


# ---- examples nobody has looked at


def test_the_rest_of_the_test_split_follows_from_all_of_it_and_a_part() -> None:
    random = np.random.default_rng(0)
    full, after = random.random(1000) < 0.9, random.random(1000) < 0.8
    whole, part = (_scored(full[:n], after[:n]) for n in (1000, 400))
    (found,) = unseen.rest([whole], [part])
    change, error = difference(full[400:], after[400:])
    assert found["test_examples"] == 600 and found["test_skip"] == 400
    assert found["test_accuracy"] == pytest.approx(after[400:].mean())
    assert 100 * (found["test_accuracy"] - found["test_accuracy_full"]) == pytest.approx(change)
    assert found["points_lost_se"] == pytest.approx(error)
    assert "test_loss" not in found
    assert unseen.rest([{**whole, "test_skip": 400}], []) == [{**whole, "test_skip": 400}], "scored on them alone"


def _scored(full: np.ndarray, after: np.ndarray) -> Row:
    accuracies = {"test_accuracy_full": float(full.mean()), "test_loss": 0.1, "test_examples": len(full)}
    return row("last", 0.8, float(after.mean()), **accuracies, points_lost_se=difference(full, after)[1])


@pytest.mark.parametrize("change", [{"val_loss": 0.51}, {"orders": [5]}, {"trained_id": "b"}, {"test_examples": 2000}])
def test_what_is_not_of_the_same_network_is_not_subtracted(change: dict[str, Any]) -> None:
    """And takes its arm with it: a mean over two of three seeds compares with no mean over three."""
    whole = [*of_seeds("last", 0.8, (0.5, 0.6, 0.7)), row("h2", 0.8, 0.6)]
    part = [{**one, "test_examples": 400} for one in whole]
    assert len(unseen.rest(whole, part)) == 4
    part[1] = {**part[1], **change}
    assert [label(one) for one in unseen.rest(whole, part)] == ["h2"]
    assert unseen.table(whole, part).endswith("later: last.")


def test_what_is_skipped_and_what_is_scored_make_up_the_test_split() -> None:
    seen, rest = scored(100, 40, 0), scored(100, None, 40)
    assert seen is not None and rest is not None and sorted([*seen, *rest]) == list(range(100)) and len(seen) == 40
    some = scored(100, 20, 40)
    assert some is not None and len(some) == 20 and set(some) <= set(rest)
    assert scored(100, None, 0) is None and scored(100, 100, 0) is None
    with pytest.raises(UserError, match="test_skip=100 leaves nothing of the 100"):
        scored(100, None, 100)
