"""Plans: which cells there are, which are shared, and what their names depend on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from make_bench import TINY, write_recipe

from hamward.benchmark import Plan, make_plan, read_bench
from hamward.benchmark.plan import Cell
from hamward.data import RetrievalData

Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path, data: RetrievalData) -> Make:
    def plan(*changes: tuple[str, str], add: str = "", on: RetrievalData = data) -> Plan:
        text = TINY.replace("NETWORK", "tiny-resnet")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        file = tmp_path / "changed.toml"
        file.write_text(text + add)
        return make_plan(read_bench(str(file)), on, name="tiny")

    return plan


def kinds(plan: Plan) -> list[str]:
    return [cell.kind for cell in plan.cells.values()]


def named(plan: Plan) -> dict[str, str]:
    return {cell.label: name for name, cell in plan.cells.items()}


def test_the_cells_of_a_small_recipe(make: Make) -> None:
    plan = make()
    assert [cell.label for cell in plan.cells.values()] == [
        "train dcmh-8",
        "dcmh-8: clean",
        "dcmh-8: both",
        "dcmh-8: noise",
        "harden dcmh-8+control",
        "dcmh-8+control: clean",
        "dcmh-8+control: both",
        "dcmh-8+control: noise",
    ]
    cells = named(plan)
    assert plan.cells[cells["harden dcmh-8+control"]].needs == (cells["train dcmh-8"],)
    both = plan.cells[cells["dcmh-8: both"]]
    assert both.needs == (cells["train dcmh-8"],)
    assert both.config["attacks"]["hag"] == {"eps": 8 / 255, "text_eps": 0.05, "steps": 1}
    train = plan.cells[cells["train dcmh-8"]]
    assert train.work == len(range(24, 72)) * 1, "items x epochs"


def test_tables_and_seeds_share_what_is_the_same(make: Make) -> None:
    again = TINY[TINY.index("[tables.main]") : TINY.index("[[published]]")]
    assert make(add=again.replace("tables.main", "tables.again")).cells == make().cells
    two = make(("queries = 5", "queries = 5\nseeds = [0, 1]"))
    assert {*make().cells} <= {*two.cells}
    assert len(two.cells) == 16 and kinds(two).count("train") == 2


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (('label = "two attacks"', 'label = "other"'), 8),
        (('title = "All of it"', 'title = "Else"'), 8),
        (("queries = 5", "queries = 5\nbatch_size = 3"), 8),
        (("attacks.hag = { steps = 1 }", "attacks.hag = { steps = 1, margin = 0.5 }"), 8),
        (("attacks.hag = { steps = 1 }", "attacks.hag = { steps = 2 }"), 6),
        (("epochs = 1\nbatch_size = 8", "epochs = 2\nbatch_size = 8"), 4),
        (("queries = 5", "queries = 4"), 2),
        (("epochs = 1, batch", "epochs = 2, batch"), 0),
    ],
)
def test_names_change_with_what_decides_results(
    make: Make, change: tuple[str, str], kept: int
) -> None:
    assert len(make().cells.keys() & make(change).cells.keys()) == kept


def test_other_data_or_another_version_are_other_cells(
    make: Make, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make()
    other = dataclasses.replace(data, digest="another")
    assert not plan.cells.keys() & make(on=other).cells.keys()
    monkeypatch.setattr("hamward.benchmark.plan.__version__", "99.0")
    assert not plan.cells.keys() & make().cells.keys()


def test_defenses_and_threats_that_are_not_for_a_victim_leave_cells_empty(make: Make) -> None:
    other = '\n[victims.dph]\nrecipe = "dph"\n'
    plan = make(
        ('victims = ["dcmh"]', 'victims = ["dcmh", "dph"]'),
        ('rows = ["defense", "threat"]', 'rows = ["victim", "defense", "threat"]'),
        ("[defenses.control]", '[defenses.control]\nvictims = ["dcmh"]'),
        ('label = "noise"', 'label = "noise"\nmodalities = ["text"]'),
        ('access = "codes"\neps = "8/255"', 'access = "codes"'),
        add=other,
    )
    assert plan.left_out == ("dph x control",)
    assert [c.label for c in plan.cells.values() if "dph" in c.label] == [
        "train dph-8",
        "dph-8: clean",
        "dph-8: both",
    ]


def test_transfer_sends_on_what_other_cells_crafted(make: Make) -> None:
    other = '\n[victims.ssah]\nrecipe = "ssah"\n'
    plan = make(
        ('victims = ["dcmh"]', 'victims = ["dcmh", "ssah"]\ncrafted_on = ["victim", "ssah"]'),
        ('rows = ["defense", "threat"]', 'rows = ["victim", "crafted_on", "threat"]'),
        ('defenses = ["none", "control"]', 'defenses = ["none"]'),
        add=other,
    )
    cells: dict[str, Cell] = {cell.label: cell for cell in plan.cells.values()}
    moved = cells["dcmh-8: both, crafted on ssah-8"]
    own = [cells[f"{victim}-8: both"].name for victim in ("ssah", "dcmh")]
    assert list(moved.reuses) == own and {*own} < {*moved.needs}
    assert moved.config["transfer_from"] == "ssah-8"
    assert "ssah-8: both, crafted on ssah-8" not in cells, "its own items are no transfer"
    assert make(("queries = 5", "queries = 5")).cells.keys() & plan.cells.keys()


def test_scales_change_values_only(tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    small = read_bench(file, scale="smaller")
    assert (small.queries, read_bench(file).queries) == (3, 5)
    assert dataclasses.replace(small, queries=5, scale="full") == read_bench(file)
