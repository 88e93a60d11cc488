"""Benchmarks end to end: once, again, killed, shared, failed; the table is always the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from make_bench import SHORT, prepare_tiny, write_recipe

from hamward import artifacts
from hamward.benchmark import (
    BenchResult,
    Shard,
    Store,
    bench,
    cells,
    evaluations_in,
    executor_of,
    run_plan,
)
from hamward.benchmark.api import plan_lines, planned
from hamward.benchmark.claims import STALE, Holder, claimed, holder_of
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, DataError
from hamward.evaluation import Evaluation
from hamward.progress import PlainProgress

Go = Callable[..., BenchResult]


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: RetrievalData) -> Go:
    """Run the tiny recipe on the tiny set, here."""
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    recipe = write_recipe(tmp_path)

    def run(out: str = "out", **options: Any) -> BenchResult:
        return bench(recipe, data="tiny", out=tmp_path / out, **options)

    return run


@pytest.fixture(scope="module")
def reference(data: RetrievalData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that an undisturbed run of the tiny recipe writes."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
        return files(bench(write_recipe(folder), data="tiny", out=folder / "out"))


def files(made: BenchResult) -> dict[str, bytes]:
    return {name: (made.folder / name).read_bytes() for name in ("table.md", "table.json")}


def finished(out: Path) -> dict[str, int]:
    """When each cell's record was written."""
    return {f.parent.name: f.stat().st_mtime_ns for f in (out / "cells").glob("*/cell.json")}


def test_a_benchmark_once_and_again(go: Go, reference: dict[str, bytes], tmp_path: Path) -> None:
    plan, out = planned(write_recipe(tmp_path), data="tiny"), tmp_path / "out"
    lines = list(plan_lines(plan, out))
    assert len(lines) == 10 and all(" to do " in line for line in lines[:8]) and not out.exists()
    assert lines[8] == "8 cells: 1 to train, 1 to harden, 6 to evaluate; 0 done"
    assert "8 of them by round figures" in lines[9]
    made = go()
    assert len(made.summary.made) == len(made.plan.cells) == 8
    assert files(made) == reference
    before = finished(tmp_path / "out")
    again = go()
    assert again.summary.made == () and finished(tmp_path / "out") == before
    assert files(again) == reference
    assert not list((tmp_path / "out" / "claims").iterdir()), "claims end with their cells"

    (out / "cells" / list(plan.cells)[-1] / "cell.json").unlink()
    lines = list(plan_lines(plan, out))
    assert sum(" done " in line for line in lines[:8]) == 7
    assert "from cells that are finished here" in lines[9]

    table = json.loads(reference["table.json"])
    assert table["schema_version"] == 1 and table["missing"] == 0
    entries = {tuple(sorted(e["at"].items())): e for e in table["tables"][0]["entries"]}
    assert len(entries) == 2 * 3 * 2 * 2
    store = Store.open(tmp_path / "out")
    place = {c.label: n for n, c in made.plan.cells.items()}
    inside = evaluations_in(tmp_path / "out")
    assert inside is not None and evaluations_in(tmp_path) is None
    labels = {"dcmh-8: noise", "dcmh-8: both", "dcmh-8+control: both"}  # "clean" has no attack
    assert {store.record(folder.name)["label"] for folder in inside} == labels
    noise = Evaluation.load(store.folder(place["dcmh-8: noise"]))
    row = noise.find("dcmh-8", "random-noise", "i2t")
    found = next(
        e for e in entries.values()
        if (e["at"]["defense"], e["at"]["threat"], e["at"]["direction"], e["at"]["metric"])
        == ("none", "noise", "i2t", "map")
    )  # fmt: skip
    assert found["value"] == pytest.approx(row.map, abs=1e-12)
    assert found["intervals"] == [[pytest.approx(row.low), pytest.approx(row.high)]]
    both = Evaluation.load(store.folder(place["dcmh-8: both"]))
    worst = next(
        e for e in entries.values()
        if (e["at"]["defense"], e["at"]["threat"], e["at"]["direction"], e["at"]["metric"])
        == ("none", "both", "i2t", "map")
    )  # fmt: skip
    single = [both.find("dcmh-8", attack, "i2t").map for attack in ("own-code", "hag")]
    assert worst["value"] <= min(single) + 1e-12, "the worst case of each query"
    assert worst["published"]["value"] == 0.25
    assert worst["difference"] == pytest.approx(worst["value"] - 0.25)
    text = reference["table.md"].decode()
    assert f"{worst['value']:.3f} (0.250, {worst['difference']:+.3f})" in text
    assert "5 queries, 72 database items" in text and "both: eps 8/255, text_eps 0.05" in text
    assert f"MAP of a random ranking: i2t {row.chance:.3f}, t2i" in text
    assert "budgets" in table["protocol"] and table["protocol"]["scale"] == "full"


def test_killed_anywhere_and_run_again(
    go: Go, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is written under another name first: stop there, like a kill, ten times over."""
    write, draw = artifacts.write_atomically, random.Random(5)
    left = 0

    def dying(file: Path, fill: Callable[[Path], None]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_name(f".{file.name}.1.part").write_bytes(b"half")
            raise KeyboardInterrupt
        write(file, fill)

    monkeypatch.setattr(artifacts, "write_atomically", dying)
    before: dict[str, int] = {}
    kills = 0
    while True:
        left = draw.randrange(3, 16)
        try:
            made = go()
            break
        except KeyboardInterrupt:
            kills += 1
        after = finished(tmp_path / "out")
        assert {name: after[name] for name in before} == before, "no finished cell is run again"
        before = after
    assert kills >= 5
    assert files(made) == reference


def test_sigkill_with_two_workers_gives_the_table_of_one(tmp_path: Path) -> None:
    data = prepare_tiny(tmp_path)
    recipe = write_recipe(tmp_path, network="small-resnet")
    alone = files(bench(recipe, data=data, out=tmp_path / "alone"))
    out, draw = tmp_path / "out", random.Random(3)
    words = [sys.executable, "-m", "hamward", "bench", recipe, "--data", data, "--out", str(out)]
    words += ["--workers", "2", "--progress", "none"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and len(finished(out)) < 2:
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = finished(out)
    assert len(before) >= 2
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "8 of 8 done" in done.stdout
    after = finished(out)
    assert {name: after[name] for name in before} == before
    assert {n: (out / "tiny-tiny-full" / n).read_bytes() for n in alone} == alone


@pytest.mark.skipif("HAMWARD_TEST_RAY" not in os.environ, reason="starts a Ray cluster: slow")
def test_ray_gives_the_table_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    data = prepare_tiny(tmp_path)
    recipe = write_recipe(tmp_path, network="small-resnet")
    alone = files(bench(recipe, data=data, out=tmp_path / "alone"))
    words = [sys.executable, "-m", "hamward", "bench", recipe, "--data", data]
    words += ["--out", str(tmp_path / "out"), "--executor", "ray", "--workers", "2"]
    subprocess.run([*words, "--progress", "none"], capture_output=True, check=True)
    assert {n: (tmp_path / "out" / "tiny-tiny-full" / n).read_bytes() for n in alone} == alone


def test_failures_are_kept_listed_and_tried_again_on_request(
    go: Go, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harden, tries = cells.harden_run, []

    def failing(*words: Any, **options: Any) -> None:
        tries.append(1)
        raise RuntimeError("no memory")

    monkeypatch.setattr(cells, "harden_run", failing)
    made = go()
    assert list(made.summary.failures.values()) == ["RuntimeError: no memory"]
    assert len(made.summary.blocked) == 3 and len(made.summary.done) == 4
    assert "failed: harden dcmh-8+control: RuntimeError: no memory" in made.table
    assert "| control | clean       |" in made.table, "its rows are there, and empty"
    failure = json.loads(next((tmp_path / "out" / "failures").iterdir()).read_text())
    assert "in failing" in failure["trace"]
    assert go().summary.failures and len(tries) == 1, "not tried again by itself"
    monkeypatch.setattr(cells, "harden_run", harden)
    assert files(go(retry=True)) == reference


def test_too_many_submissions_fail_the_cell(go: Go, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        *SHORT,
        ('access = "codes"\neps = "8/255"\ntext_eps = 0.05', 'access = "codes"\nqueries = 2'),
        ('label = "noise"', 'modalities = ["text"]\ninsertions = 1\ndeletions = 1'),
        ("attacks.random-noise = {}", "attacks.tag-edits-codes = { candidates = 5 }"),
    )
    made = bench(recipe, data="tiny", out=tmp_path / "out")
    (message,) = made.summary.failures.values()
    assert message.startswith("tag-edits-codes on dcmh-8 submitted")
    assert message.endswith("items a query, the threat grants 2")


def test_shards_make_disjoint_parts_of_one_table(
    go: Go, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hamward.benchmark.api.run_plan", impatient)
    first = go(shard=Shard(number=2, of=2))
    assert first.summary.made == () and len(first.summary.left) == 8, "all of it needs the victim"
    second = go(shard=Shard(number=1, of=2))
    assert len(second.summary.made) == len(second.summary.left) == 4
    third = go(shard=Shard(number=2, of=2))
    assert len(third.summary.made) == 4 and not third.summary.left
    assert not {*second.summary.made} & {*third.summary.made}
    assert files(third) == reference
    with pytest.raises(ConfigError, match="I/N with 1 <= I <= N, got 3/2"):
        Shard(number=3, of=2)
    with pytest.raises(ConfigError, match="takes I/N, such as 1/2, got 'half'"):
        Shard.read("half")


def impatient(*words: Any, **options: Any) -> Any:
    return run_plan(*words, **options, poll=0.01, patience=0.0)


def test_two_runners_do_not_do_one_cell(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(write_recipe(tmp_path, *SHORT), data="tiny")
    store, executor = Store.open(tmp_path / "out"), executor_of("local", 1)
    train = next(iter(plan.cells))
    other = Holder(host="elsewhere", pid=7, token="a")
    hold(store.claim(train), other)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            store.claim(train).unlink()  # the other gave up

    monkeypatch.setattr("hamward.benchmark.runner.time.sleep", sleep)
    summary = run_plan(plan, store, executor, progress=PlainProgress(every=0.0))
    executor.close()
    assert len(summary.made) == 2 and len(waits) == 2
    said = capsys.readouterr().err
    assert "train dcmh-8: held by process 7 on elsewhere" in said
    assert "waiting for 1 cells of others, held by process 7 on elsewhere" in said


def hold(file: Path, holder: Holder) -> None:
    words = {"host": holder.host, "pid": holder.pid, "token": holder.token}
    file.write_text(json.dumps(words))


def test_claims_are_exclusive_and_stale_ones_are_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    with claimed(file) as nobody:
        assert nobody is None
        with claimed(file) as holder:
            assert holder is not None and holder.pid == os.getpid()
        assert file.exists(), "who came second removes nothing"
    assert not file.exists()

    with claimed(file):
        host = json.loads(file.read_text())["host"]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    hold(file, Holder(host=host, pid=gone.pid, token="dead"))
    assert holder_of(file) is None
    with claimed(file) as nobody:
        assert nobody is None, "its process is gone"

    hold(file, Holder(host="elsewhere", pid=gone.pid, token="silent"))
    assert holder_of(file) is not None, "of another host a pid says nothing"
    silent = time.time() - STALE - 5
    os.utime(file, (silent, silent))
    with claimed(file) as nobody:
        assert nobody is None, "no sign of life for too long"

    file.write_text("")  # being written
    with claimed(file) as holder:
        assert holder is not None


def test_a_claim_gives_signs_of_life(tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    with claimed(file, beat=0.01):
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 5
        while file.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 1


def test_a_shared_folder_that_disappears_is_named(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    train = cells.train_run

    def unmounting(*words: Any, **options: Any) -> None:
        train(*words, **options)
        out.rename(away)

    monkeypatch.setattr(cells, "train_run", unmounting)
    recipe = write_recipe(tmp_path, *SHORT)
    with pytest.raises(ArtifactError, match="out: the folder of benchmarks is gone"):
        bench(recipe, data="tiny", out=out)
    assert not out.exists(), "nothing is written in its place"
    away.rename(out)
    for claim in (out / "claims").iterdir():
        claim.unlink()  # of a process that would be gone by now
    monkeypatch.setattr(cells, "train_run", train)
    assert len(bench(recipe, data="tiny", out=out).summary.done) == 2


def test_folders_and_data_that_do_not_fit_are_refused(go: Go, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(ArtifactError, match="not empty, and no folder of benchmarks"):
        go("photos")
    with pytest.raises(ConfigError, match="--workers must be at least 1, got 0"):
        go(workers=0)
    Store.open(tmp_path / "out")
    mark = tmp_path / "out" / "bench.json"
    store = Store.open(tmp_path / "out")
    mark.write_text(mark.read_text().replace(store.id, "another"))
    with pytest.raises(ArtifactError, match="another folder of benchmarks lies there now"):
        store.check()


def test_a_data_set_that_is_not_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown data set 'mirflickr'.*data prepare mirflickr"):
        bench("cmla", data="mirflickr", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
