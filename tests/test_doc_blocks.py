"""Every code block of the README and of docs/ runs; a command runs up to where its work starts."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cyclopts import App, UnknownOptionError
from doc_blocks import PAGES, ROOT, blocks_of, words_of
from dry_run import dry_run
from tiny import TINY_FIT

from hamward.attacks import ATTACKS
from hamward.cli.app import app
from hamward.cli.listing import method_tables, option_rows
from hamward.data import IMPORTERS, RetrievalData
from hamward.data.openclipart27 import load_openclipart27
from hamward.defenses import DEFENSES
from hamward.errors import ConfigError, UnknownNameError
from hamward.models import ModelSpec
from hamward.models.networks import IMAGE_NETWORKS
from hamward.registry import Registry
from hamward.training import OBJECTIVES

COMMANDS = [
    (f"{page.name}:{block.line}", command)
    for page in PAGES
    for block in blocks_of(page.read_text(encoding="utf-8"), "console")
    for command in block.commands
]
OPTION = re.compile(r"(?<!\S)--[a-z][a-z0-9-]*")
# The README's block trains on the real pictures: test_readme.py.
WITH_PYTHON = [p for p in PAGES[1:] if blocks_of(p.read_text(encoding="utf-8"), "python")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_what_they_are(page: Path) -> None:
    languages = {block.language for block in blocks_of(page.read_text(encoding="utf-8"))}
    assert languages <= {"python", "console", "text", "csv", "toml", "json", "html"}


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_a_command_is_one_that_runs(where: str, command: str) -> None:
    words = words_of(command)
    while words and "=" in words[0]:  # settings of the environment
        words = words[1:]
    dry_run(words)


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("hamward report runs/eval --to page", UnknownOptionError, "--to"),
        ("hamward attack cmla --victim a --out b --epsilon 8/255", ConfigError, "epsilon"),
        ("hamward attack clma --victim a --out b", UnknownNameError, "cmla"),
        ("hamward evaluate a --attack own-code:step=3 --out b", ConfigError, "step"),
        ("hamward harden cmla --victim a --out b --attack pgd", ConfigError, "own-code"),
        ("hamward train dcmh --out a --set fit.epoch=3", ConfigError, "epoch"),
        ("hamward purify jpeg --victim a --out b --level 3", ConfigError, "level"),
        ("hamward list cmal", UnknownNameError, "cmla"),
        ("python benchmarks/table_attacks.py a --output b", SystemExit, "2"),
        ("pip install -e '.[txt]' -c constraints.txt", AssertionError, "txt"),
        ("make tests", AssertionError, "tests"),
    ],
)
def test_a_renamed_option_would_show(
    command: str, error: type[BaseException], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=message):
        dry_run(words_of(command))


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is gone afterwards."""
    tables: tuple[Registry, ...] = (ATTACKS, OBJECTIVES, DEFENSES)
    for table in tables:
        monkeypatch.setattr(table, "_entries", dict(table._entries))


def own_model(data: RetrievalData, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Two small ONNX files stand where the page has the reader's."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    side = data.image_side
    shapes = {"seen": (3, side, side), "read": (len(data.words),)}
    for name, shape in shapes.items():
        weight = np.random.default_rng(0).normal(size=(int(np.prod(shape)), 8))
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["x"], ["flat"], axis=1),
                helper.make_node("MatMul", ["flat", "w"], ["u"]),
            ],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info("u", TensorProto.FLOAT, ["n", 8])],
            [numpy_helper.from_array(weight.astype(np.float32), "w")],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        made.ir_version = 9
        onnx.save(made, f"{name}.onnx")
    from hamward.attacks import Square

    # 5,000 submissions of an item are the default: two show that it runs.
    monkeypatch.setattr("hamward.attacks.Square", lambda: Square(queries=2))
    return {"data": data}


def tiny(data: RetrievalData, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The tiny set answers to the name of the real one, and so do networks and rates for it."""
    for package in ("hamward", "hamward.data"):
        monkeypatch.setattr(f"{package}.load_data", lambda name: data)
    monkeypatch.setitem(IMAGE_NETWORKS, "small-resnet", IMAGE_NETWORKS["tiny-resnet"])  # type: ignore[misc]
    monkeypatch.setattr("hamward.ModelSpec", partial(ModelSpec, text_width=32))
    monkeypatch.setattr("hamward.FitConfig", lambda epochs: replace(TINY_FIT, epochs=3 * epochs))
    return {}


PRELUDES: dict[str, Callable[[RetrievalData, pytest.MonkeyPatch], dict[str, object]]] = {
    "adding_a_method.md": tiny,
    "data.md": tiny,
    "own_model.md": own_model,
}


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_run_in_order(
    page: Path,
    data: RetrievalData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = PRELUDES.get(page.name, lambda *_: {})(data, monkeypatch)
    names["__name__"] = "page"
    for block in blocks_of(page.read_text(encoding="utf-8"), "python"):
        exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        printed = capsys.readouterr().out
        if block.prints is not None:
            assert printed == block.prints
    CHECKS.get(page.name, lambda *_: None)(names, printed)


def methods_work(names: dict[str, object], printed: str) -> None:
    """The attack harms, the defense helps, and all three are registered."""
    assert ATTACKS["fgsm"].make is names["FGSM"]
    assert OBJECTIVES["pair-likelihood"].make is names["PairLikelihood"]
    assert DEFENSES["fgsm"].make is names["fgsm_training"]
    rows = [[c.strip() for c in line.split("|")] for line in printed.splitlines()[2:]]
    score = {(r[1], r[2], r[4]): float(r[5]) for r in rows}
    assert len(score) == 8
    clean, attacked = (score["victim", a, "i2t"] for a in ("clean", "fgsm"))
    assert clean > 0.6  # chance is 0.33
    assert attacked < clean - 0.2
    assert score["hardened", "fgsm", "i2t"] > attacked + 0.2


CHECKS: dict[str, Callable[[dict[str, object], str], None]] = {"adding_a_method.md": methods_work}


def fences() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("```"):
                yield page.name, line


def test_no_block_hides_from_these_tests() -> None:
    """An indented or tilde fence, or an indented block, would not be read."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert "~~~" not in text and "\n    hamward " not in text and " ```" not in text, page
    counts = [sum(name == page.name for name, _ in fences()) for page in PAGES]
    shown = [
        2 * sum(1 + (b.prints is not None) for b in blocks_of(p.read_text(encoding="utf-8")))
        for p in PAGES
    ]
    assert counts == shown


def known_options() -> set[str]:
    """Every option of the commands, the methods, the importers, the data set and the scripts."""

    def of_commands(some: App) -> Iterator[str]:
        for name in some:
            if not name.startswith("-") and some[name].default_command:
                for argument in some[name].assemble_argument_collection():
                    yield from argument.names
            if not name.startswith("-"):
                yield from of_commands(some[name])

    entries = [entry for table in method_tables().values() for entry in table.values()]
    named = {name for entry in entries for name in option_rows(entry)}
    named |= {name for importer in IMPORTERS.values() for name in importer.options}
    named |= set(inspect.signature(load_openclipart27).parameters)
    scripts = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("benchmarks/*.py"))
    options = {f"--{name.replace('_', '-')}" for name in named}
    return {*options, *of_commands(app), *re.findall(r'"(--[a-z0-9-]+)"', scripts), "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    named = {o for code in re.findall(r"`([^`]+)`", text) for o in OPTION.findall(code)}
    assert named <= known_options()
