"""Which arms a figure shows: at most eight a panel, chosen by one rule for all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s5c.report.arms import FLOORS, NEUTRAL, best_first, differences
from s5c.report.row import Row

MOST = 8
"""Arms of a panel: more are not told apart, neither by colour nor in print."""
MOST_PANELS = 3
OURS = "calibrated"
PUBLISHED = ("last", "aire", "bt", "h2", "lqo")
"""Presets that are methods of papers as published. Where one has been run, a panel shows it, however it did."""
REFITTED = ("refit", "sequential", "readout", "norm", "finetune.epochs")
"""Settings that say that outputs, statistics or weights were adapted once states had been removed."""


@dataclass(frozen=True)
class Panel:
    """Arms that are drawn together.

    Attributes:
        title: what they have in common; empty where there is no other panel.
        names: of the arms, best first.
        left_out: how many more belong here; the interactive page has them.
    """

    title: str
    names: tuple[str, ...]
    left_out: int = 0


def chosen(arms: Mapping[str, Sequence[Row]]) -> list[Panel]:
    """Returns the panels of a figure of lines.

    Up to eight arms share one panel. Of more, those that were adapted after the reduction (`REFITTED`) get a panel of
    their own, beside ours for comparison. Each panel shows ours, the methods of papers as published (of the adapted the
    best of each preset) and states drawn at random, and is filled up with the best others, by mean lead over the
    average arm at the same ratio. Variants of a single preset are split into panels best first, for none of them is a
    baseline.

    Args:
        arms: averaged rows as `s5c.report.arms.by_arm` groups them.
    """
    ranked = best_first(arms)
    if len(ranked) <= MOST:
        return [Panel("", tuple(ranked))]
    if len({arms[name][0]["reduction"] for name in ranked}) == 1:
        return _variants(ranked)
    adapted = [name for name in ranked if _is_refitted(arms[name][0])]
    plain = [name for name in ranked if name not in adapted]
    groups = {"methods as they are": plain, "with refits or training added": adapted}
    return [_panel(title, names, arms, ranked) for title, names in groups.items() if names]


def _panel(title: str, names: Sequence[str], arms: Mapping[str, Sequence[Row]], ranked: Sequence[str]) -> Panel:
    """Returns the panel of some arms; ours stands in every one."""
    ours = [name for name in ranked if name == OURS]
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(arms[name][0]["reduction"], name)
    adapted = any(_is_refitted(arms[name][0]) for name in names)
    wanted = list(first) if adapted else [*PUBLISHED, FLOORS[0]]
    always = [first[preset] for preset in wanted if preset in first]
    shown = list(dict.fromkeys([*ours, *always, *names]))[:MOST]
    left_out = len(set(names) - set(shown))
    compared = ", and calibrated" if ours and OURS not in names else ""
    return Panel(f"{title}{compared}", tuple(name for name in ranked if name in shown), left_out)


def _variants(ranked: Sequence[str]) -> list[Panel]:
    """Returns the panels of variants of one preset: the preset itself, its name being the shortest, is in all."""
    preset = min(ranked, key=len)
    others = [name for name in ranked if name != preset]
    count = min(-(-len(others) // (MOST - 1)), MOST_PANELS)
    size = min(-(-len(others) // count), MOST - 1)
    panels = []
    for i in range(count):
        some = others[i * size : (i + 1) * size]
        names = tuple(name for name in ranked if name in some or name == preset)
        left_out = len(others) - count * size if i == count - 1 else 0
        panels.append(Panel(f"variants of {preset}, {i + 1} of {count}", names, max(left_out, 0)))
    return panels


def _is_refitted(row: Row) -> bool:
    found = differences(row)
    return any(key in found and found[key] != NEUTRAL.get(key) for key in REFITTED)
