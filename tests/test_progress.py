import io
import json

import pytest

from hamward.progress import (
    SILENT,
    JsonProgress,
    PlainProgress,
    Progress,
    RichProgress,
    progress_of,
)


@pytest.mark.parametrize(
    "progress", [SILENT, PlainProgress(io.StringIO()), JsonProgress(io.StringIO()), RichProgress()]
)
def test_every_display_yields_the_items(progress: Progress) -> None:
    assert list(progress.track(iter("abc"), total=3, label="letters")) == ["a", "b", "c"]
    progress.say("a line with [brackets]")


def test_plain_lines_tell_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr("hamward.progress.time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    list(PlainProgress(stream, every=3.0).track(range(4), total=4, label="craft"))
    assert stream.getvalue().splitlines() == [
        "craft: 2/4, 4 s, ETA 4 s",
        "craft: 4/4 in 10.0 s",
    ]


def test_json_lines_are_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = JsonProgress(stream)
    list(progress.track("ab", total=2, label="x"))
    progress.say("done")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [e.get("done") for e in events] == [1, 2, None]
    assert events[0]["total"] == 2 and events[0]["label"] == "x" and events[0]["seconds"] >= 0
    assert events[2] == {"message": "done"}


def test_auto_is_plain_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_of("auto"), PlainProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(progress_of("auto"), RichProgress)
    assert isinstance(progress_of("json"), JsonProgress)
    assert progress_of("none") is SILENT


def test_an_error_in_the_loop_comes_through() -> None:
    def loop() -> None:
        for item in RichProgress().track(range(3), total=3, label="x"):
            if item == 1:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        loop()


def test_bars_of_inner_loops_stand_below_their_own_and_go_with_them() -> None:
    stream = io.StringIO()
    progress = RichProgress(stream)
    seen = []
    for outer in progress.track("ab", total=2, label="outer loop"):
        seen += [outer + inner for inner in progress.track("xy", total=2, label="inner loop")]
        progress.say(f"said {outer}")
    assert seen == ["ax", "ay", "bx", "by"]
    shown = stream.getvalue()
    assert "said a" in shown and "said b" in shown
    assert "outer loop" in shown and "2/2" in shown
    assert "inner loop" not in shown.splitlines()[-1]
    assert list(progress.track("c", total=1, label="another loop")) == ["c"], "it starts anew"
    assert "another loop" in stream.getvalue()
