"""Bench recipes: shipped ones parse and plan, mistakes are refused with their path."""

from pathlib import Path
from typing import Any

import pytest
from make_bench import TINY

from hamward.benchmark import bench_names, make_plan, read_bench
from hamward.data import RetrievalData
from hamward.errors import HamwardError

# standard-v1 has 12 victims and 62 hardenings: 54 models under 7 threats, 20 under 4.
FULL_CELLS = {"cmla": 20, "saat": 60, "standard-v1": 12 + 62 + 54 * 7 + 20 * 4}


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize("name", bench_names())
def test_every_shipped_recipe_plans(name: str, scale: str, data: RetrievalData) -> None:
    recipe = read_bench(name, scale=scale)
    plan = make_plan(recipe, data, name="tiny")
    assert plan.cells and recipe.references() is not None
    before: set[str] = set()
    for cell in plan.cells.values():
        assert {*cell.needs} <= before, cell.label
        before.add(cell.name)
    if scale == "full" and name in FULL_CELLS:
        assert len(before) == FULL_CELLS[name]


def test_shipped_recipes_are_the_named_ones() -> None:
    assert bench_names() == ["aach", "cmla", "fpad", "prosgan", "rocmr", "saat", "standard-v1"]


@pytest.mark.parametrize(
    ("name", "data", "at", "value"),
    [
        (
            "cmla",
            "mirflickr",
            {"direction": "i2t", "threat": "steps-500", "metric": "map", "victim": "ssah",
             "defense": "cmla"},
            0.674,
        ),
        (
            "cmla",
            "nus-wide",
            {"direction": "t2i", "threat": "steps-500", "metric": "D", "victim": "ssah",
             "defense": "none"},
            0.017,
        ),
        (
            "cmla",
            "mirflickr",
            {"direction": "t2i", "threat": "clean", "metric": "map", "victim": "dcmh",
             "defense": "none"},
            0.797,
        ),
        (
            "saat",
            "coco",
            {"victim": "dph", "defense": "saat", "threat": "sdha", "metric": "map@5000",
             "direction": "i2i", "code_length": 64},
            0.3691,
        ),
        (
            "prosgan",
            "nus-wide",
            {"victim": "dph", "defense": "none", "threat": "prosgan", "metric": "t-map",
             "direction": "i2i", "crafted_on": "victim", "code_length": 16},
            0.7233,
        ),
    ],
)  # fmt: skip
def test_published_numbers_stand_where_they_were_printed(
    name: str, data: str, at: dict[str, Any], value: float
) -> None:
    found = [
        r
        for r in read_bench(name).references()
        if r.data == data and all(at.get(k) == v for k, v in r.at.items())
    ]
    assert [r.value for r in found] == [pytest.approx(value, abs=1e-12)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("queries = 5", "querys = 5", "unknown key 'querys': did you mean 'queries'"),
        ('label = "DCMH"', 'lable = "DCMH"', "unknown key 'victims.dcmh.lable'"),
        ("queries = 3", "querys = 3", "unknown key of .*: scale.smaller: 'querys'"),
        ('rows = ["defense", "threat"]', 'rows = ["defence", "threat"]', "unknown axis 'defence'"),
        ('rows = ["defense", "threat"]', 'rows = ["threat"]', "2 values of defense: put it into"),
        ('"threat"]\ncol', '"defense"]\ncol', "has an axis twice"),
        ('victims = ["dcmh"]', 'victims = ["dchm"]', "unknown victim in tables.main 'dchm'"),
        ('victims = ["dcmh"]', "victims = []", "victims must not be empty"),
        ("values = [[0.5], [0.25]]", "values = [[0.5]]", "values must be 2 rows of 1"),
        ('metric = "map", def', 'metric = "mpa", def', r"unknown metric in published \(nobody\)"),
        ("[defenses.control]", "[defenses.none]", "'none' is a name of its own"),
        ('recipe = "dcmh"', 'recipe = "dchm"', "unknown recipe 'dchm'"),
        ("epochs = 1, batch", "epoch = 1, batch", "victims.dcmh: fit.epoch"),
        ("attacks.hag = { steps", "attacks.hga = { steps", "unknown attack 'hga'"),
        ("attacks.hag = { steps", "attacks.hag = { stps", "unknown key 'hag: stps'"),
        (
            "attacks.hag = {",
            'attacks.hag = { eps = "4/255",',
            "threats.both.attacks.hag: contradictory budget: threats.both says linf of 0.03137 for "
            "images, the attack has linf of 0.01569",
        ),
        ("text_eps = 0.05", "text_eps = 0.05\ninsertions = 1\ndeletions = 1", "typed"),
        ("text_eps = 0.05", "insertions = 1", "insertions and deletions go together"),
        ('label = "noise"', 'modalities = ["image"]', "texts have one and stay untouched"),
        (
            "attacks.random-noise = {}",
            "queries = 10\nattacks.square = { queries = 11 }",
            "contradictory budget: threats.noise says 10 queries, the attack has 11",
        ),
        (
            "attacks.random-noise = {}",
            "attacks.hag = {}",
            "needs gradients, threats.noise grants codes",
        ),
    ],
)
def test_mistakes_are_refused_with_their_place(
    tmp_path: Path, data: RetrievalData, old: str, new: str, message: str
) -> None:
    assert old in TINY
    text = TINY.replace(old, new, 1).replace("NETWORK", "tiny-resnet")
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(HamwardError, match=message):
        make_plan(read_bench(str(file)), data, name="tiny")


def test_unknown_recipes_and_scales_are_named(tmp_path: Path) -> None:
    with pytest.raises(HamwardError, match="unknown bench recipe 'cmal': did you mean 'cmla'"):
        read_bench("cmal")
    with pytest.raises(HamwardError, match=r"unknown scale of cmla 'tiny': .*known: full, small"):
        read_bench("cmla", scale="tiny")
    with pytest.raises(HamwardError, match=r"none\.toml: cannot be read"):
        read_bench(str(tmp_path / "none.toml"))
