"""Rows equal direct calls of the metrics; transfers say so; stored items are used again."""

import copy
import dataclasses
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tiny import make_model
from torch import Tensor

from hamward.artifacts import read_json, read_table, read_tensors, write_json
from hamward.attacks import (
    Budget,
    Goal,
    OwnCode,
    RandomNoise,
    TagEdits,
    TagEditsByCodes,
    encode,
)
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.evaluation import CLEAN, Evaluation, Row, evaluate, markdown_table
from hamward.evaluation.evaluate import adversarial_file
from hamward.evaluation.table import protocol_line
from hamward.metrics import distance_counts, mean_average_precision
from hamward.models import HashModel, ModelSpec, Victim, build_hash_model
from hamward.models.victim import Access
from hamward.types import DIRECTIONS, Modality, modalities_of

OWN = OwnCode(eps=8 / 255, text_eps=0.4, steps=3)
ATTACKS = {"own-code@8/255": OWN, "random-noise": RandomNoise(text_eps=0.4)}


@pytest.fixture
def evaluation(model: HashModel, data: RetrievalData) -> Evaluation:
    return evaluate({"victim": model}, data, ATTACKS)


def timeless(evaluation: Evaluation) -> list[Row]:
    return [dataclasses.replace(row, seconds=0.0) for row in evaluation.rows]


def test_clean_rows_equal_the_metric(
    evaluation: Evaluation, model: HashModel, data: RetrievalData
) -> None:
    for direction in DIRECTIONS:
        asking, answering = modalities_of(direction)
        query, database = data.positions("query", asking), data.split.database
        counts = distance_counts(
            encode(model, data, asking, query),
            encode(model, data, answering, database),
            query_labels=data.label(query),
            database_labels=data.label(database),
        )
        score = mean_average_precision(counts)
        row = evaluation.find("victim", CLEAN, direction)
        assert (row.map, row.optimistic, row.pessimistic) == (
            score.value,
            score.optimistic,
            score.pessimistic,
        )
        assert row.low <= row.map <= row.high
        assert row.pessimistic <= row.map <= row.optimistic
        assert row.chance == pytest.approx(data.chance(direction), abs=1e-9)
        assert (row.flips, row.rms, row.linf, row.eps, row.seconds) == (0, 0, 0, 0, 0)
        assert row.queries == len(query) == (24 if asking == "image" else 23)


def test_pictures_have_a_row_per_form_and_words_one(evaluation: Evaluation) -> None:
    found = [(r.attack, r.direction, r.stored) for r in evaluation.rows if r.attack != CLEAN]
    for attack in ATTACKS:
        for direction in ("i2t", "i2i"):
            assert (attack, direction, "8-bit") in found and (attack, direction, "float") in found
        for direction in ("t2i", "t2t"):
            assert (attack, direction, "feature-space") in found
    assert len(found) == 2 * (4 + 2)
    assert len(evaluation.rows) == len(evaluation.curves) == 4 + 12


def test_attacked_rows_say_what_was_done(evaluation: Evaluation) -> None:
    stored = evaluation.find("victim", "own-code@8/255", "i2t")
    unrounded = evaluation.find("victim", "own-code@8/255", "i2t", stored="float")
    clean = evaluation.find("victim", CLEAN, "i2t")
    assert stored.stored == "8-bit" and not stored.transfer
    assert stored.map < clean.map and stored.flips > 0.03
    assert stored.eps == 8 / 255 and stored.norm == "linf"
    assert 0 < stored.rms <= stored.linf <= 8 / 255 + 1e-6
    assert stored.linf * 255 == pytest.approx(round(stored.linf * 255), abs=1e-4)
    assert unrounded.rms != stored.rms
    assert stored.seconds > 0 and stored.chance == clean.chance
    words = evaluation.find("victim", "own-code@8/255", "t2i")
    assert words.stored == "feature-space" and words.eps == 0.4
    noise = evaluation.find("victim", "random-noise", "i2t")
    assert noise.flips < stored.flips


def test_edited_texts_are_scored_as_typed(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attacks = {
        "tag-edits": TagEdits(insertions=2, deletions=1),
        "tag-edits-codes": TagEditsByCodes(insertions=2, deletions=1),
    }
    evaluation = evaluate({"victim": model}, data, attacks, folder=tmp_path)
    assert {r.direction for r in evaluation.rows if r.attack != CLEAN} == {"t2i", "t2t"}
    clean = evaluation.find("victim", CLEAN, "t2i")
    for name in attacks:
        row = evaluation.find("victim", name, "t2i")
        assert (row.stored, row.norm, row.eps, row.linf) == ("as typed", "edits", 3, 1)
        assert row.map < clean.map and row.flips > 0
        x_adv = read_tensors(adversarial_file(tmp_path, "victim", name, "text"))["x_adv"]
        x = data.inputs("text", data.positions("query", "text"))
        assert row.rms == pytest.approx(float((x_adv - x).square().mean(1).sqrt().mean()))


def test_curves_are_shares(evaluation: Evaluation) -> None:
    for curve in evaluation.curves:
        assert sum(curve.relevant) == pytest.approx(1)
        assert sum(curve.irrelevant) == pytest.approx(1)
        assert len(curve.relevant) == len(curve.precision) == len(curve.recall) == 17
        assert curve.cutoffs == (1, 5, 10, 20, 50) and len(curve.precision_at) == 5
        assert curve.recall[-1] == pytest.approx(1)


@pytest.mark.parametrize("source", ["first", "second"])
def test_transfers_are_labelled_whatever_the_order(
    model: HashModel, data: RetrievalData, source: str
) -> None:
    victims = {"first": model, "second": make_model(seed=1).eval()}
    target = "second" if source == "first" else "first"
    attacks = {"own-code": OWN}
    result = evaluate(victims, data, attacks, transfer_from=source, modalities=("image",))
    assert result.victims() == ["first", "second"]
    transfers = [row for row in result.rows if row.transfer]
    assert {(r.victim, r.crafted_on) for r in transfers} == {(target, source)}
    assert {(r.direction, r.stored) for r in transfers} == {
        (d, s) for d in ("i2t", "i2i") for s in ("8-bit", "float")
    }
    adaptive = result.find(target, "own-code", "i2t")
    moved = result.find(target, "own-code", "i2t", crafted_on=source)
    assert not adaptive.transfer and moved.transfer
    own = result.find(source, "own-code", "i2t")
    assert (moved.rms, moved.linf, moved.seconds) == (own.rms, own.linf, own.seconds)
    assert moved.flips != adaptive.flips
    alone = evaluate({target: victims[target]}, data, attacks, modalities=("image",))
    assert alone.find(target, "own-code", "i2t").map == adaptive.map
    table = markdown_table(result)
    assert table.count("own-code") == 2, "transfers are no robustness figures"


def test_finished_items_are_used_again_and_the_rest_is_made(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    expected = evaluate({"victim": model}, data, ATTACKS)
    first = evaluate({"victim": model}, data, ATTACKS, folder=tmp_path)
    assert timeless(first) == timeless(expected)
    kept = adversarial_file(tmp_path, "victim", "own-code@8/255", "image")
    lost = adversarial_file(tmp_path, "victim", "random-noise", "text")
    assert kept.name == "own-code@8_255-image.safetensors"
    written = kept.stat().st_mtime_ns
    lost.unlink()
    again = evaluate({"victim": model}, data, ATTACKS, folder=tmp_path)
    assert timeless(again) == timeless(expected) and again.curves == expected.curves
    row = again.find("victim", "own-code@8/255", "i2t")
    assert row.seconds == pytest.approx(first.find("victim", "own-code@8/255", "i2t").seconds)
    assert kept.stat().st_mtime_ns == written and lost.exists()
    assert not list(tmp_path.rglob("*.parts"))
    stored = read_tensors(kept)
    assert stored["ids"].tolist() == data.ids[data.positions("query")].tolist()
    codes = read_tensors(tmp_path / "codes" / "victim.safetensors")
    assert set(codes) >= {"query/image", "query/text", "database/image", "database/text"}
    assert "adversarial/own-code@8/255/victim/image" in codes


@pytest.mark.parametrize("change", ["options", "seed", "victim", "queries"])
def test_stale_items_are_refused(
    model: HashModel, data: RetrievalData, tmp_path: Path, change: str
) -> None:
    def run(model: HashModel, data: RetrievalData, attack: OwnCode, seed: int = 0) -> None:
        evaluate(
            {"v": model}, data, {"a": attack}, modalities=("image",), folder=tmp_path, seed=seed
        )

    run(model, data, OWN)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.encoder("text").head.bias += 0.1
    changed = {
        "options": (model, data, dataclasses.replace(OWN, eps=4 / 255), 0),
        "seed": (model, data, OWN, 1),
        "victim": (other, data, OWN, 0),
        "queries": (model, data.limit(queries=20), OWN, 0),
    }
    message = "other items" if change == "queries" else "other options, another seed or another"
    with pytest.raises(ArtifactError, match=rf"a-image.safetensors.*{message}"):
        run(*changed[change])


def test_results_come_back_from_their_file(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again.rows == evaluation.rows and again.curves == evaluation.curves
    assert again.protocol == evaluation.protocol
    table = read_table(tmp_path / "rows.parquet")
    assert table["map"] == [row.map for row in evaluation.rows]
    assert again.attacks() == list(ATTACKS) and again.victims() == ["victim"]


@pytest.mark.parametrize(
    "change", [{"rows": [{"victim": "v"}]}, {"rows": 3}, {"curves": [4]}, {"protocol": None}]
)
def test_results_of_something_else_are_refused(
    evaluation: Evaluation, tmp_path: Path, change: dict[str, object]
) -> None:
    evaluation.save(tmp_path)
    content = read_json(tmp_path / "results.json")
    if change == {"protocol": None}:
        del content["protocol"]
        change = {}
    write_json(tmp_path / "results.json", {**content, **change})
    with pytest.raises(ArtifactError, match=r"results.json: not an evaluation"):
        Evaluation.load(tmp_path)
    with pytest.raises(ArtifactError, match=r"results.json: not a readable JSON"):
        Evaluation.load(tmp_path / "none")


def test_the_protocol_travels_with_the_numbers(evaluation: Evaluation, data: RetrievalData) -> None:
    protocol = evaluation.protocol
    assert protocol["data_digest"] == data.digest
    assert protocol["attacks"]["own-code@8/255"]["eps"] == 8 / 255
    assert protocol["attacks"]["random-noise"]["class"] == "RandomNoise"
    assert protocol["code_length"] == {"victim": 16}
    line = protocol_line(evaluation)
    assert "tiny: 24 queries, 72 database items; tie-aware MAP" in line


def test_the_table_says_victim_attack_radius_and_distortion(evaluation: Evaluation) -> None:
    lines = markdown_table(evaluation).splitlines()
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    own = next(line for line in lines if "own-code" in line and "i2t" in line)
    assert "8/255" in own
    row = evaluation.find("victim", "own-code@8/255", "i2t")
    assert f"{row.map:.3f}" in own and f"{row.rms:.4f}" in own
    assert not any("8/255" in line for line in lines if "t2i" in line)


def test_attacks_that_only_options_tell_apart_show_them(evaluation: Evaluation) -> None:
    rows = [row for row in evaluation.rows if row.attack in (CLEAN, "own-code@8/255")]
    again = [
        dataclasses.replace(row, attack="own-code@steps=9")
        for row in rows
        if row.attack != CLEAN and row.direction == "i2t"
    ]
    lines = markdown_table(dataclasses.replace(evaluation, rows=(*rows, *again))).splitlines()
    named = [line.split("|")[2].strip() for line in lines[2:]]
    assert named == ["clean", "own-code:8/255", "own-code:steps=9", "clean", "own-code"]


def test_missing_rows_are_named(evaluation: Evaluation) -> None:
    with pytest.raises(ArtifactError, match="no row for 'x', 'none', 'i2t'"):
        evaluation.find("x", CLEAN, "i2t")


def test_what_does_not_fit_is_refused_before_anything_is_crafted(
    model: HashModel, data: RetrievalData
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("crafted")

    with pytest.raises(ConfigError, match="no victims"):
        evaluate({}, data, ATTACKS)
    with pytest.raises(ConfigError, match=r"transfer_from must be one of \['v'\], got 'w'"):
        evaluate({"v": model}, data, ATTACKS, transfer_from="w")
    for change, message in (
        ({"vocabulary": 13}, "bags of 13 words, tiny has 12"),
        ({"image_side": 24}, "side 24, tiny was loaded with 16"),
    ):
        spec = {**{f.name: getattr(model.spec, f.name) for f in dataclasses.fields(ModelSpec)}}
        other = build_hash_model(ModelSpec(**{**spec, **change}), seed=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["hamward.evaluation.crafting"], "craft", refuse)
            with pytest.raises(ShapeError, match=f"victim 'b' reads .*{message}"):
                evaluate({"a": model, "b": other}, data, ATTACKS)


def test_few_queries_are_enough(model: HashModel, data: RetrievalData) -> None:
    one = evaluate({"v": model}, data.limit(queries=1), {"a": OWN})
    assert one.find("v", "a", "i2t").queries == 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Impostor:
    """A targeted attack that needs no gradient: it shows a database item with the target label."""

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = False
    data: RetrievalData

    def budget(self, modality: Modality) -> Budget:
        return Budget(eps=1.0)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        assert goal.target_label is not None and goal.label is not None
        assert not (goal.target_label * goal.label).any(), "T4: no label in common"
        assert victim.index is not None and victim.access == "ranks"
        pool = self.data.split.train
        same = goal.target_label @ self.data.label(pool).T
        return self.data.inputs("image", pool[same.argmax(1).numpy()])


def test_targeted_attacks_are_scored_by_the_labels_they_aim_at(
    model: HashModel, data: RetrievalData
) -> None:
    rows = evaluate({"v": model}, data, {"impostor": Impostor(data=data)})
    row = rows.find("v", "impostor", "i2t")
    assert row.target_map is not None and row.target_chance is not None
    assert row.target_map > row.target_chance + 0.2
    assert row.map < rows.find("v", CLEAN, "i2t").map
    assert {r.direction for r in rows.rows if r.attack != CLEAN} == {"i2t", "i2i"}
    assert rows.find("v", CLEAN, "i2t").target_map is None
    table = markdown_table(rows)
    assert "t-MAP" in table and f"{row.target_map:.3f}" in table
    assert "t-MAP" not in markdown_table(evaluate({"v": model}, data, {}))


def test_a_model_of_one_modality_is_scored_within_it(data: RetrievalData) -> None:
    spec = ModelSpec(
        code_length=16,
        vocabulary=0 + 12,
        image_side=16,
        image_network="tiny-resnet",
        text_network="",
    )
    victim = build_hash_model(spec, seed=0).eval()
    rows = evaluate({"v": victim}, data, {"random-noise": RandomNoise()})
    assert {r.direction for r in rows.rows} == {"i2i"}


def test_real_valued_victims_are_ranked_by_cosine(data: RetrievalData, model: HashModel) -> None:
    spec = dataclasses.replace(model.spec, retrieval="cosine")
    victim = build_hash_model(spec, seed=0)
    victim.load_state_dict(model.state_dict())
    row = evaluate({"v": victim.eval()}, data, {}).find("v", CLEAN, "i2t")
    x = encode(victim, data, "image", data.split.query)
    y = encode(victim, data, "text", data.split.database)
    cosine = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T
    relevant = data.label(data.split.query) @ data.label(data.split.database).T > 0
    values = []
    for scores, hits in zip(cosine, relevant, strict=True):
        found = hits[scores.argsort(descending=True)]
        places = torch.arange(1, len(found) + 1)
        values.append(float((found.cumsum(0) / places)[found].mean()))
    assert row.map == pytest.approx(sum(values) / len(values), abs=5e-3)
    assert row.optimistic - row.pessimistic < 0.05
