"""Commands of ours up to the point where the work would start: every option is checked by then."""

import argparse
import runpy
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hamward.attacks import ATTACKS
from hamward.cli import listing
from hamward.cli.app import app
from hamward.cli.settings import attack_words
from hamward.config import call_with
from hamward.data import DATASETS, IMPORTERS
from hamward.data.protocols import PROTOCOLS
from hamward.defenses import DEFENSES
from hamward.errors import unknown_name
from hamward.evaluation import make_attack
from hamward.models import PURIFIERS
from hamward.models.networks import IMAGE_NETWORKS, TEXT_NETWORKS, TEXT_TRANSFORMERS
from hamward.recipes import read_recipe
from hamward.training import DCMH, OBJECTIVES, DualEncoder, FitConfig

ROOT = Path(__file__).parents[1]


class Reached(Exception):  # noqa: N818 - nothing went wrong
    """The work would start now."""


def _train(config: Any, *_: Any, **__: Any) -> None:
    call_with(OBJECTIVES[config.method].make, config.options)
    image, text = config.model.image_network, config.model.text_network
    assert image in ("", *IMAGE_NETWORKS) and text in ("", *TEXT_NETWORKS, *TEXT_TRANSFORMERS)


def _harden(config: Any, *_: Any, **__: Any) -> None:
    base = DualEncoder() if config.defense == "rocmr" else DCMH()
    call_with(DEFENSES[config.defense].make, config.options, given={"base": base, "seed": 0})


def _evaluate(config: Any, *_: Any, **__: Any) -> None:
    for name, options in config.attacks.items():
        make_attack(name, options)


def _purify(config: Any, *_: Any, **__: Any) -> None:
    call_with(PURIFIERS[config.purifier].make, config.options)


def _show(what: str | None, **_: Any) -> None:
    methods = [name for table in listing.method_tables().values() for name in table]
    known = [*listing.method_tables(), "data", "recipes", *methods]
    if what is not None and what not in known:
        raise unknown_name("list", what, known)


def _prepare(name: str, *_: Any, config: Any, options: Any, **__: Any) -> None:
    assert set(options) <= set(IMPORTERS[name].options), options
    assert config.protocol in PROTOCOLS


_WORK: dict[str, tuple[str, Callable[..., Any]]] = {
    "demo": ("hamward.evaluation.demo.demo_run", lambda *_, **__: None),
    "train": ("hamward.evaluation.training_runs.train_run", _train),
    "harden": ("hamward.evaluation.training_runs.harden_run", _harden),
    "attack": ("hamward.evaluation.runs.evaluate_run", _evaluate),
    "evaluate": ("hamward.evaluation.runs.evaluate_run", _evaluate),
    "report": ("hamward.evaluation.runs.report_run", lambda *_, **__: None),
    "purify": ("hamward.evaluation.purifying.purify_run", _purify),
    "export": ("hamward.evaluation.exporting.export_run", lambda *_, **__: None),
    "import_": ("hamward.evaluation.exporting.import_run", lambda *_, **__: None),
    "compare": ("hamward.evaluation.compare.compare_runs", lambda *_, **__: None),
    "list_": ("hamward.cli.listing.show", _show),
    "data_list": ("hamward.cli.listing.show", _show),
    "data_info": ("hamward.cli.listing.show_data", lambda name, **_: DATASETS[name]),
    "data_prepare": ("hamward.cli.data_commands.prepare_set", _prepare),
    "data_check": ("hamward.cli.data_commands.check_set", lambda *_, **__: None),
    "data_fetch": ("hamward.cli.data_commands.fetch_archives", lambda n, *_, **__: IMPORTERS[n]),
}


def dry_run(words: Sequence[str]) -> None:
    """Check a command line: ours in full, make's and pip's names, a script's arguments.

    Raises:
        Exception: it would not run.
    """
    if words[0] == "hamward":
        _hamward(list(words[1:]))
    elif words[0] == "torchrun":
        at = words.index("-m")
        assert words[at + 1] == "hamward"
        _hamward(list(words[at + 2 :]))
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(f"\n{target}:" in makefile for target in words[1:]), words
    elif words[0] == "pip":
        _pip(words)
    elif words[0] == "python":
        _script(list(words[1:]))
    else:
        assert words == ["python3", "-m", "venv", ".venv", "&&", ".", ".venv/bin/activate"], words


def _hamward(words: list[str]) -> None:
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    name = command.__name__
    if name not in _WORK:
        return
    where, check = _WORK[name]

    def work(*arguments: Any, **named: Any) -> None:
        check(*arguments, **named)
        raise Reached

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(where, work)
        patched.setattr(
            "hamward.evaluation.training_runs.hardening_fit", lambda victim: FitConfig()
        )
        with pytest.raises(Reached):
            command(*bound.args, **bound.kwargs)
    if name == "train" and bound.arguments.get("recipe"):
        read_recipe(bound.arguments["recipe"])


def _pip(words: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert words[1] == "install"
    assert ("-c" in words and words[words.index("-c") + 1] == "constraints.txt") or (
        words[-1] in pins
    ), words
    for word in words:
        if word.startswith(".["):
            assert set(word[2:-1].split(",")) <= set(project["optional-dependencies"]), word


def _script(words: list[str]) -> None:
    """Run one of our scripts up to its arguments, and read the attacks that they name."""
    parse = argparse.ArgumentParser.parse_args
    read: list[argparse.Namespace] = []

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: Any) -> None:
        read.append(parse(self, *arguments))
        raise Reached

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patched.setattr(sys, "argv", words)
        patched.syspath_prepend(str(ROOT / Path(words[0]).parent))
        with pytest.raises(Reached):
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    for name, options in attack_words(getattr(read[0], "attacks", None) or ()).items():
        assert options["attack"] in ATTACKS
        make_attack(name, options)
