"""The README's example prints what the README shows; its commands: test_doc_blocks.py."""

import pytest
from doc_blocks import PAGES, blocks_of

README = PAGES[0].read_text(encoding="utf-8")


def test_python_block_prints_the_table_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(block.text for block in blocks_of(README, "python"))
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
