"""Comparisons: recovered shares by hand, the worst case query by query, what is refused."""

import dataclasses
import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from made_report import make_row

from hamward.artifacts import RunFolder, read_json, read_tensors, write_tensors
from hamward.attacks import OwnCode, RandomNoise
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation import CLEAN, EvaluateConfig, Evaluation, Row, compare_runs, evaluate
from hamward.evaluation.compare import recovered_share, training_seconds
from hamward.evaluation.report.comparison import comparison_markdown, write_comparison
from hamward.evaluation.results import Flag, precision_file
from hamward.models import HashModel

CLASSES = {"strongest": "Strongest", "square": "Square", "random-noise": "RandomNoise"}
PROTOCOL = {
    "data": "tiny",
    "data_digest": "d0",
    "split": {"protocol": "p", "digest": "s0"},
    "queries": 24,
    "database": 72,
    "seed": 0,
}


def write_victim(folder: Path, seconds: list[float], *, before: Path | None = None) -> None:
    run = RunFolder(folder)
    run.start("model", {"victim": str(before)} if before else {}, resume=False)
    history = [
        {"epoch": i, "loss": 0.5, "seconds": s, "i2t": 0.5, "attacked_i2t": 0.1 * i}
        for i, s in enumerate(seconds, start=1)
    ]
    run.finish(history=history, ranks=1 if before is None else 2)


def write_run(
    folder: Path,
    *rows: Row,
    options: dict[str, dict[str, Any]] | None = None,
    precisions: dict[str, dict[str, np.ndarray]] | None = None,
    flags: tuple[Flag, ...] = (),
    places: dict[str, str] | None = None,
    done: bool = True,
    **protocol: Any,
) -> Path:
    """An evaluation run as `evaluate_run` leaves it; victims lie beside it."""
    attacks = {r.attack: (options or {}).get(r.attack, {}) for r in rows if r.attack != CLEAN}
    victims = {r.victim: str(folder.parent / r.victim) for r in rows} | (places or {})
    run = RunFolder(folder)
    config = EvaluateConfig(victims=victims, attacks=attacks)
    run.start("evaluation", to_mapping(config), resume=False)
    classes = {
        n: {"class": CLASSES.get(n.split("@")[0], "OwnCode"), **o} for n, o in attacks.items()
    }
    kept = {**PROTOCOL, **protocol, "attacks": classes, "code_length": dict.fromkeys(victims, 16)}
    Evaluation(protocol=kept, rows=rows, flags=flags).save(folder)
    for victim, named in (precisions or {}).items():
        write_tensors(
            precision_file(folder, victim), {k: torch.from_numpy(v) for k, v in named.items()}
        )
    if done:
        run.finish()
    return folder


def rows_of(victim: str, *, clean: float, attack: str = "strongest", score: float) -> list[Row]:
    return [make_row(victim, CLEAN, "i2t", clean), make_row(victim, attack, "i2t", score)]


def pair(attack: str = "strongest") -> list[Row]:
    return [
        *rows_of("undefended", clean=0.6, attack=attack, score=0.1),
        *rows_of("hardened", clean=0.55, attack=attack, score=0.4),
    ]


def test_shares_losses_and_costs_by_hand(tmp_path: Path) -> None:
    write_victim(tmp_path / "undefended", [10, 20])
    write_victim(tmp_path / "hardened", [15, 15], before=tmp_path / "undefended")
    moved = make_row("hardened", "strongest", "i2t", 0.3, crafted_on="undefended")
    made = compare_runs([write_run(tmp_path / "run", *pair(), moved)])
    base, hardened = made.standings
    assert (base.recovered, base.clean_loss, base.transfer) == (0, 0, None)
    assert hardened.recovered == pytest.approx((0.4 - 0.1) / (0.6 - 0.1))
    assert hardened.clean_loss == pytest.approx(0.05)
    assert hardened.robust == 0.4, "a transfer is no robustness figure"
    assert (hardened.transfer, hardened.transfer_from) == (0.3, ("undefended",))
    assert (hardened.low, hardened.high) == (pytest.approx(0.38), pytest.approx(0.42))
    # The chain: 30 s of one process, then 30 s of two.
    assert training_seconds(tmp_path / "hardened") == 30 + 60
    assert [v.cost for v in made.victims] == [1, 3]
    assert not made.outside and made.per_query and made.base == "undefended"
    text = comparison_markdown(made)
    line = next(x for x in text.splitlines() if "| hardened" in x)
    assert [c.strip() for c in line.split("|")[1:-1]] == [
        "i2t, l∞ ≤ 8/255", "hardened", "0.550", "0.400", "0.380-0.420", "0.300 from undefended",
        "60%", "+0.050", "0.314", "3.0x", "masking: transfer-beats-white-box",
    ]  # fmt: skip


def test_no_gap_has_no_share() -> None:
    assert recovered_share(hardened=0.5, attacked=0.4, clean=0.4) is None
    assert recovered_share(hardened=0.1, attacked=0.2, clean=0.4) == pytest.approx(-0.5)


def test_worst_case_equals_a_loop_over_queries_in_several_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names, rows, kept = ("strongest", "own-code", "square"), {}, {}
    for name in names:
        rows[name], kept[name] = [], {}
        for victim in ("undefended", "hardened"):
            values = rng.uniform(size=24)
            values[[2, 7]] = np.nan
            kept[name][victim] = {f"{name}/{victim}/i2t": values}
            score = float(np.nanmean(values))
            rows[name] += rows_of(victim, clean=0.9, attack=name, score=score)
    folders = [write_run(tmp_path / name, *rows[name], precisions=kept[name]) for name in names]
    made = compare_runs(folders, base="hardened")
    assert made.per_query and [v.name for v in made.victims] == ["hardened", "undefended"]
    for standing in made.standings:
        victim, scores = standing.victim, []
        for query in range(24):
            each = [kept[n][victim][f"{n}/{victim}/i2t"][query] for n in names]
            if not np.isnan(each[0]):
                scores.append(min(each))
        assert standing.robust == pytest.approx(sum(scores) / 22)
        assert standing.attacks == names and standing.low < standing.robust < standing.high
    found = compare_runs([tmp_path, folders[0]], base="hardened")  # once each, by folder name
    assert [s.robust for s in found.standings] == [s.robust for s in made.standings]
    assert len(found.runs) == 3

    (tmp_path / "square" / "precision" / "hardened.safetensors").unlink()
    coarse = compare_runs(folders)
    assert not coarse.per_query and "not the worst case of each query" in comparison_markdown(
        coarse
    )
    for standing in coarse.standings:
        own = [r.map for n in names for r in rows[n] if r.victim == standing.victim]
        assert standing.robust == min(own)


def test_an_evaluation_keeps_what_its_maps_are_means_of(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attacks = {"own-code": OwnCode(steps=1, eps=4 / 255), "random-noise": RandomNoise()}
    made = evaluate({"v": model}, data.limit(queries=9), attacks, folder=tmp_path)
    kept = read_tensors(precision_file(tmp_path, "v"))
    counted = [row for row in made.rows if row.counts]
    assert set(kept) == {row.key for row in counted} and len(kept) == len(counted) == 12
    for row in counted:
        assert float(kept[row.key].nanmean()) == pytest.approx(row.map, abs=1e-12)


def test_doubts_mark_a_defense_as_masking(tmp_path: Path) -> None:
    flag = Flag(id="scale", victim="hardened", subject="x", value=1, threshold=0, message="m")
    write_run(tmp_path / "a", *pair(), flags=(flag,))
    made = compare_runs([tmp_path / "a"])
    assert made.masks("hardened") and made.facts("hardened").flags == ("scale",)
    assert not made.masks("undefended") and made.facts("undefended").cost is None
    codes = dataclasses.replace(flag, id="collapsed-codes")  # inherited from any victim
    write_run(tmp_path / "codes", *pair(), flags=(codes,))
    made = compare_runs([tmp_path / "codes"])
    assert made.facts("hardened").flags == ("collapsed-codes",) and not made.masks("hardened")
    # Rows of two runs raise doubts together: an attack without gradients did more damage.
    square = pair("square")
    square[-1] = dataclasses.replace(square[-1], map=0.2)
    both = compare_runs([tmp_path / "a", write_run(tmp_path / "b", *square)])
    assert both.facts("hardened").flags == ("scale", "black-box-beats-white-box")
    assert not both.facts("undefended").flags


def test_without_the_ensemble_it_says_so_and_noise_is_no_attack(tmp_path: Path) -> None:
    noise = [make_row("undefended", "random-noise", "i2t", 0.05)]
    made = compare_runs([write_run(tmp_path / "run", *pair("own-code"), *noise)])
    assert made.outside == tuple(made.threats())
    assert "only an upper bound: i2t, l∞ ≤ 8/255." in comparison_markdown(made)
    assert made.standings[0].robust == 0.1 and made.standings[0].attacks == ("own-code",)


def test_files_hold_the_tables_and_charts_of_all_budgets(tmp_path: Path) -> None:
    write_victim(tmp_path / "undefended", [1, 2])
    rows = pair()
    rows += [
        make_row(v, "strongest@4", "i2t", s, eps=4 / 255)
        for v, s in (("undefended", 0.3), ("hardened", 0.5))
    ]
    rows += [
        make_row(v, a, "t2i", s, **({} if a == CLEAN else typed))
        for v in ("undefended", "hardened")
        for a, s in ((CLEAN, 0.7), ("strongest", 0.35))
        for typed in ({"norm": "edits", "eps": 6.0, "stored": "as typed"},)
    ]
    options = {"strongest": {"insertions": 4, "deletions": 2}, "strongest@4": {"eps": 4 / 255}}
    made = compare_runs([write_run(tmp_path / "run", *rows, options=options)])
    assert [t.eps for t in made.threats()] == [4 / 255, 8 / 255, 6.0]
    file = write_comparison(tmp_path / "out", made)
    text = file.read_text(encoding="utf-8")
    assert "t2i, ≤ 4 words typed in, 2 taken out" in text
    assert "## Epochs of undefended" in text and "attacked i2t" in text
    content = read_json(tmp_path / "out" / "compare.json")
    assert content["standings"][1]["robust"] == made.standings[1].robust
    tree = ElementTree.parse(tmp_path / "out" / "compare.svg").getroot()
    titles = [e.text for e in tree.iter() if e.get("class") == "title"]
    # Three threats, one family of two radii, one history.
    assert len(titles) == 5 and "image-to-text, linf" in titles and titles[-1] == "undefended"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "compare.json", "compare.md", "compare.svg",
    ]  # fmt: skip


def test_the_table_of_defenses_spreads_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hamward.process.tune_process", lambda: True)
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "table_defenses.py"))
    made = []
    for seed, robust in enumerate((0.3, 0.5)):
        rows = pair()
        rows[-1] = dataclasses.replace(rows[-1], map=robust)
        folder = write_run(tmp_path / f"seed-{seed}" / "run", *rows, seed=seed)
        made.append(compare_runs([folder]))
    line = script["defense_table"](made).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "i2t, l∞ ≤ 8/255", "hardened", "0.550 ± 0.000", "0.400 ± 0.141", "", "60% ± 28%",
        "+0.050 ± 0.000", "", "clear",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "other"}, "data is other and tiny"),
        ({"data_digest": "d1"}, "data_digest is d1 and d0"),
        ({"split": {"protocol": "p", "digest": "s1"}}, "split is .*s1.* and .*s0"),
        ({"queries": 12}, "queries is 12 and 24"),
        ({"seed": 1}, "seed is 1 and 0"),
        ({"candidates": {"role": "hub"}}, "attacks items of the database"),
        ({"metric": "MAP@50"}, "metric is MAP@50 and None"),
    ],
)
def test_other_protocols_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    first = write_run(tmp_path / "a", *pair()[:2])
    with pytest.raises(ConfigError, match=message):
        compare_runs([first, write_run(tmp_path / "b", *pair()[2:], **changes)])


def test_what_not_all_victims_met_is_refused(tmp_path: Path) -> None:
    base, hard = pair()[:2], pair()[2:]
    a = write_run(tmp_path / "a", *base)
    with pytest.raises(ConfigError, match=r"base must be one of \['undefended'\], got 'plain'"):
        compare_runs([a], base="plain")
    more = make_row("hardened", "strongest", "i2t", 0.3, eps=16 / 255)
    b = write_run(tmp_path / "b", *hard, more)
    with pytest.raises(
        ConfigError, match=r"linf of 0\.06275 was met by 'hardened' and not by 'unde"
    ):
        compare_runs([a, b])
    with pytest.raises(ConfigError, match="'undefended' met nothing, and 'hardened' strongest"):
        compare_runs([a, b], base="hardened")
    c = write_run(tmp_path / "c", *hard, options={"strongest": {"steps": 5}})
    with pytest.raises(ConfigError, match="evaluate both with the same attacks and options"):
        compare_runs([a, c])
    d = write_run(tmp_path / "d", *hard, make_row("hardened", "own-code", "i2t", 0.3))
    with pytest.raises(ConfigError, match="met strongest, own-code, and 'undefended' strongest"):
        compare_runs([a, d])
    e = write_run(tmp_path / "e", *pair("random-noise"))
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_runs([e])


def test_one_name_for_two_victims_and_unfinished_runs_are_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", *pair())
    b = write_run(tmp_path / "b", *pair(), places={"hardened": str(tmp_path / "elsewhere")})
    with pytest.raises(ConfigError, match="two victims are called 'hardened'"):
        compare_runs([a, b])
    again = [dataclasses.replace(r, map=0.61) if r.attack == CLEAN else r for r in pair()]
    with pytest.raises(ConfigError, match=r"clean i2t MAPs 0\.600000 and 0\.610000"):
        compare_runs([a, write_run(tmp_path / "c", *again)])
    with pytest.raises(ArtifactError, match="not finished"):
        compare_runs([write_run(tmp_path / "d", *pair(), done=False)])
    write_victim(tmp_path / "undefended", [1])
    with pytest.raises(ArtifactError, match="no evaluation, and none in it"):
        compare_runs([tmp_path / "undefended"])
    with pytest.raises(ConfigError, match="at least one run folder"):
        compare_runs([])
