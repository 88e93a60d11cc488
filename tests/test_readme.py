"""Every code block of the README runs, or is parsed by the command line it shows."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_block_prints_the_table_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip().splitlines()
    after = README[README.index(code) + len(code) :].splitlines()
    shown = [line for line in after if line.startswith("|")][: len(printed)]
    labels = [[cell.strip() for cell in line.split("|")[1:5]] for line in printed]
    assert labels == [[cell.strip() for cell in line.split("|")[1:5]] for line in shown]
    assert len(printed) == 10
    maps = [float(line.split("|")[5]) for line in printed[2:]]
    value = dict(zip(map(tuple, labels[2:]), maps, strict=True))
    clean, attacked = ("clean", ""), ("own-code", "4/255")
    assert value["undefended", *attacked, "i2t"] < value["undefended", *clean, "i2t"] - 0.05
    assert value["hardened", *attacked, "i2t"] > value["undefended", *attacked, "i2t"]


@pytest.mark.parametrize("line", [x for b in blocks("console") for x in b.splitlines()])
def test_console_lines_are_commands_of_ours(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "hamward":
        from hamward.cli.app import app

        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert "constraints.txt" in line or "venv" in line
