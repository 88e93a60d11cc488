"""The sentences on top, made from the numbers so that they hold for any numbers."""

from dataclasses import dataclass

from hamward.evaluation.evaluate import CLEAN, Row
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.wording import (
    budget,
    in_levels,
    interval,
    percent,
    reader_name,
    score,
)
from hamward.types import MODALITIES, Direction

__all__ = ["Card", "cards", "sentences"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One number on top of the page.

    Attributes:
        label: What it is of; names in backquotes.
        value: As text.
        note: Its protocol.
        share: The value in [0, 1] for a bar, or None.
        chance: Where chance lies on the bar.
    """

    label: str
    value: str
    note: str
    share: float | None = None
    chance: float | None = None


def sentences(findings: Findings) -> list[str]:
    """Return what a reader without time should know, one sentence group per modality.

    Verbs follow the intervals: an attack "pushes" MAP only if the two 95 % intervals do not
    touch, and a victim "withstands" more than the baseline only in the same case. Names
    stand in backquotes.
    """
    baseline = findings.baseline
    if baseline is None:
        return ["This evaluation holds no rows: there is nothing to report."]
    told = [
        _told(findings, direction)
        for direction in map(findings.main_direction, MODALITIES)
        if direction is not None
    ]
    if told:
        return told
    clean = [
        f"{reader_name(d)} MAP of {_name(v)} is {score(row.map, digits=2)} "
        f"(chance {score(row.chance, digits=2)})"
        for d in findings.directions(within=False)
        for v in findings.victims
        if (row := findings.clean(v, d)) is not None
    ]
    return [
        "On clean queries, "
        + "; ".join(clean)
        + ". No attack was run, so this says nothing about robustness."
    ]


def cards(findings: Findings) -> list[list[Card]]:
    """Return the numbers behind the sentences, one group per sentence."""
    groups: list[list[Card]] = []
    baseline = findings.baseline
    attacked = [d for d in map(findings.main_direction, MODALITIES) if d is not None]
    for direction in attacked or findings.directions(within=False):
        attack = findings.shown(direction)
        rows = [findings.clean(v, direction) for v in findings.victims]
        if attack is not None and baseline is not None:
            hit = [findings.row(v, attack, direction) for v in findings.victims]
            rows = [findings.clean(baseline, direction), *hit]
        group = [_map_card(row) for row in rows if row is not None]
        shown = next((r for r in rows if r is not None and r.attack != CLEAN), None)
        if shown is not None and shown.attacked == "image":
            group.append(
                Card(
                    label="Picture distortion",
                    value=in_levels(shown.linf),
                    note="largest change of any color value, as stored in 8 bits; "
                    f"RMS {in_levels(shown.rms)} on average",
                )
            )
        groups.append(group)
    return groups


def _map_card(row: Row) -> Card:
    attacked = row.attack != CLEAN
    how = f" under {row.attack}, {percent(row.flips)} of bits flipped" if attacked else ""
    return Card(
        label=f"{_name(row.victim)}, {'attacked' if attacked else 'clean'}",
        value=score(row.map, digits=2),
        note=f"{reader_name(row.direction)} MAP{how}; 95 % {interval(row, digits=2)}, "
        f"chance {score(row.chance, digits=2)}, {row.queries} queries",
        share=row.map,
        chance=row.chance,
    )


def _told(findings: Findings, direction: Direction) -> str:
    baseline, attack = findings.baseline, findings.shown(direction)
    assert baseline is not None and attack is not None
    clean, hit = findings.clean(baseline, direction), findings.row(baseline, attack, direction)
    if hit is None or clean is None:
        return f"{_name(baseline)} was not attacked in the {reader_name(direction)} direction."
    parts = [f"{_placed(hit)}{_within(hit)}, {_effect(clean, hit)}"]
    noise = findings.noise_like(hit)
    if findings.is_control(attack):
        parts[0] += ". No attack was run, only this random control"
    elif noise is not None:
        weak = ", so the attack shows nothing that noise does not" if noise.map <= hit.map else ""
        parts[0] += f"; random noise of the same size leaves {score(noise.map, digits=2)}{weak}"
    parts += [
        _compared(findings, victim, hit, direction)
        for victim in findings.victims[1:]
        if findings.row(victim, attack, direction) is not None
    ]
    return ". ".join(parts) + "."


def _placed(row: Row) -> str:
    if row.hubness is None:
        return ""
    return f"{row.hubness.items} items of the database were attacked, not the queries. "


def _within(row: Row) -> str:
    if row.norm == "edits":
        return (
            f"With at most {row.eps:g} word{'s' if row.eps != 1 else ''} of a text inserted or "
            "deleted, as anyone can type"
        )
    if row.attacked == "text":
        size = f"by more than {row.eps:.3g}" if row.norm == "linf" else f"beyond {budget(row)}"
        return (
            f"In feature space, with no word weight changed {size} (typing cannot change a text "
            "like this)"
        )
    if row.norm == "linf":
        levels = in_levels(row.eps).removesuffix("/255")
        return f"With no color value changed by more than {levels} of 255 levels"
    return f"Within {budget(row)}"


def _effect(clean: Row, hit: Row) -> str:
    what = f"{reader_name(hit.direction)} MAP of {_name(hit.victim)}"
    before, after = _pair(clean.map, hit.map)
    chance = score(hit.chance, digits=2)
    if hit.high < clean.low:
        floor = f"worse than chance, {chance}" if hit.high < hit.chance else f"chance {chance}"
        return f"{_name(hit.attack)} pushes {what} from {before} to {after} ({floor})"
    if hit.map < clean.map:
        return (
            f"{_name(hit.attack)} does not clearly lower {what}: {before} before, {after} after, "
            f"and the 95 % intervals overlap (chance {chance})"
        )
    return (
        f"{_name(hit.attack)} does not lower {what}: {before} before, {after} after "
        f"(chance {chance})"
    )


def _compared(findings: Findings, victim: str, hit: Row, direction: Direction) -> str:
    row, clean = findings.row(victim, hit.attack, direction), findings.clean(victim, direction)
    assert row is not None
    told = f"Crafted anew against {_name(victim)}, the same attack leaves "
    told += score(row.map, digits=2)
    told += f" (clean {score(clean.map, digits=2)})" if clean is not None else ""
    if row.low <= hit.high and hit.low <= row.high:
        told += ", not clearly different (the 95 % intervals overlap)"
    elif row.high < hit.low:
        told += f", less than {_name(hit.victim)} keeps"
    worst = findings.strongest(victim, direction)
    if worst is not None and worst.map < row.map:
        told += (
            f"; its strongest attack here, {_name(worst.attack)} ({budget(worst)}), leaves "
            f"{score(worst.map, digits=2)}"
        )
    return told


def _pair(first: float, second: float) -> tuple[str, str]:
    for digits in (2, 3, 4):
        pair = score(first, digits=digits), score(second, digits=digits)
        if pair[0] != pair[1]:
            break
    return pair


def _name(name: str) -> str:
    return "`" + name.replace("`", "'") + "`"
