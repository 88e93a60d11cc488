"""Sets of captions without labels: scored by own pair, refused where labels are needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from make_data import make_data, make_parts, positions
from make_folder import make_folder, make_rows, write_csv

from hamward.attacks import CMLA, OwnCode, craft, own_code_goal
from hamward.data import RetrievalData, Split, audit, contact_sheet, describe, load_data
from hamward.data.folder import read_folder
from hamward.data.prepared import open_prepared, read_manifest, verify_files
from hamward.data.preparing import PrepareConfig, prepare
from hamward.data.protocols import split_source
from hamward.errors import ConfigError, DataError
from hamward.evaluation import evaluate
from hamward.evaluation.configs import TrainConfig
from hamward.evaluation.scoring import counts_of, validation_scores
from hamward.evaluation.training_runs import train_run
from hamward.metrics import hit_at, mean_average_precision, recall_at
from hamward.models import ModelSpec, Victim, build_hash_model

CONFIG = PrepareConfig(image_side=16, queries=6, train=20, validation=4, min_count=1)


def test_on_validation_the_own_pair_is_searched() -> None:
    held = make_alone().on_validation()
    assert held.ids[held.split.query].tolist() == [65]
    assert held.ids[held.split.database].tolist() == [35, 45, 55, 65]


def make_alone(**changes) -> RetrievalData:
    """`make_data` without labels: queries 0-2 are searched too."""
    split = Split(
        query=positions(0, 1, 2),
        database=positions(0, 1, 2, 3, 4, 5, 6, 7),
        train=positions(3, 4, 5),
        validation=positions(6),
        searched_query=True,
    )
    parts = {"labels": np.zeros((8, 0), np.uint8), "label_names": (), "split": split}
    return make_data(**parts | {"groups": None} | changes)


@pytest.fixture
def source(tmp_path):
    root = make_folder(tmp_path / "pets")
    write_csv(root / "captions.csv", [row[:2] for row in make_rows(40)], ("file", "caption"))
    return read_folder(root)


def test_captions_alone_are_prepared_opened_and_checked(source, tmp_path):
    assert any("label: no column, so relevance is own pair" in note for note in source.notes)
    data = prepare(source, tmp_path / "out", config=CONFIG)
    assert data.relevance == "own pair" and data.labels.shape == (40, 0)
    assert data.directions == ("i2t", "t2i") and len(data.split.database) == 40
    assert set(data.split.query) <= set(data.split.database)
    assert not set(data.split.query) & {*data.split.train, *data.split.validation}
    assert read_manifest(tmp_path / "out")["relevance"] == "own pair"
    verify_files(tmp_path / "out")
    again = open_prepared(tmp_path / "out")
    assert again.digest == data.digest and again.split.searched_query
    in_memory = make_data(
        **{
            name: getattr(again, name)
            for name in ("name", "words", "label_names", "ids", "split", "groups")
        },
        images=np.array(again.images),
        bags=np.array(again.bags),
        labels=np.array(again.labels),
        texts=tuple(again.texts),
        sources=None,
    )
    assert in_memory.digest == data.digest
    harmonic = sum(1 / k for k in range(1, 41))
    facts = audit(again)
    assert facts["relevance"] == "own pair" and set(facts["chance_map"]) == {"i2t", "t2i"}
    assert facts["chance_map"]["i2t"] == pytest.approx(harmonic / 40)
    assert facts["labels"]["queries_without_relevant"] == 0 and facts["copies"]["queries"] == 0
    assert describe(again)["relevant_rate"]["i2t"] == pytest.approx(1 / 40)
    assert contact_sheet(again, rows=2, columns=3).size[0] > 0


def test_scores_by_hand():
    data = make_alone()
    database = torch.ones(8, 3, dtype=torch.int8)
    database[3:6] *= -1  # queries 0, 1, 2 and items 6, 7 at distance 0 of the query codes
    counts = counts_of(
        data,
        torch.ones(3, 3, dtype=torch.int8),
        database,
        query=data.split.query,
        database=data.split.database,
    )
    assert counts.relevant.tolist() == [[1, 0, 0, 0]] * 3 and counts.items[0].tolist() == [
        5,
        0,
        0,
        3,
    ]
    np.testing.assert_allclose(hit_at(counts, 2), 2 / 5)
    np.testing.assert_allclose(recall_at(counts, 5), 1)
    expected = sum(1 / k for k in range(1, 6)) / 5
    assert mean_average_precision(counts).value == pytest.approx(expected)
    floats = counts_of(
        data, torch.ones(3, 3), database.float(), query=data.split.query,
        database=data.split.database,
    )  # fmt: skip
    assert mean_average_precision(floats).value == pytest.approx(expected)


def test_items_of_a_group_answer_each_other():
    data = make_alone(groups=positions(0, 1, 2, 0, 3, 4, 5, 2))
    assert data.relevant(0, [0, 1, 3, 7]).tolist() == [True, False, True, False]
    assert data.relevant_rate("i2t") == pytest.approx((2 + 1 + 2) / 3 / 8)
    assert make_alone().relevant(0, [0, 3]).tolist() == [True, False]
    assert make_data().relevant(0, [1, 2, 3]).tolist() == [False, True, True]


def test_labels_are_missing_aloud():
    data = make_alone()
    with pytest.raises(
        DataError, match=r"has no labels \(relevance is own pair\), and they are ne"
    ):
        data.label([0])
    assert data.batch([0, 1])["label"].shape == (2, 0)
    with pytest.raises(ConfigError, match="has no direction i2i"):
        data.chance("i2i")
    parts = make_parts(labels=np.zeros((8, 0), np.uint8), label_names=())
    with pytest.raises(DataError, match="queries must lie in the database exactly where there are"):
        RetrievalData(**parts)
    with pytest.raises(DataError, match="got 2 labels and searched_query=True"):
        make_data(split=data.split)
    with pytest.raises(DataError, match="neither labels nor words"):
        make_alone(bags=np.zeros((8, 0), np.uint8), words=())


def test_a_split_that_searches_its_queries_is_checked():
    rest = {"train": positions(2), "validation": positions(), "searched_query": True}
    with pytest.raises(DataError, match=r"1 query positions are not in the database, first \[0\]"):
        Split(query=positions(0, 1), database=positions(1, 2), **rest)
    with pytest.raises(DataError, match="train and query share 1 items"):
        Split(query=positions(2), database=positions(1, 2), **rest)


def test_smaller_copies_keep_every_pair():
    data = make_alone().limit(queries=2, database=5, train=2)
    assert len(data.split.query) == 2 and set(data.split.query) <= set(data.split.database)
    assert len(data.split.database) == 5
    assert len(make_alone().limit(database=1).split.database) == 3  # all queries stay
    assert make_alone().subset([0, 1, 3, 6]).split.searched_query


def test_protocols_without_labels(source):
    split = split_source(source, "random", queries=5, train=10)
    assert split.searched_query and len(split.database) == 40
    assert len(split_source(source, "dcmh", queries=5, train=10).database) == 40
    with pytest.raises(DataError, match="draws label by label"):
        split_source(source, "djsrh", queries=5, train=10)
    grouped = replace(source, groups=np.arange(40, dtype=np.int64) // 4)
    split = split_source(grouped, "random", queries=8, train=12)
    outside = np.setdiff1d(split.database, split.query)
    assert not set(grouped.groups[split.query]) & set(grouped.groups[outside])


def test_training_with_labels_is_refused_and_attacks_without_them_work(source, tmp_path):
    data = prepare(source, tmp_path / "set", config=CONFIG)
    assert load_data(str(tmp_path / "set")).digest == data.digest
    config = TrainConfig(data=str(tmp_path / "set"))
    small = replace(config.model, image_network="tiny-resnet", text_width=16)
    fit = replace(config.fit, epochs=1, batch_size=8)
    with pytest.raises(ConfigError, match="take a method that learns from pairs"):
        train_run(replace(config, model=small, fit=fit), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    spec = ModelSpec(
        code_length=16, vocabulary=len(data.words), image_side=16, image_network="tiny-resnet",
        text_width=16,
    )  # fmt: skip
    model = build_hash_model(spec, seed=0)
    scores = validation_scores(model, data)
    assert set(scores) == {"i2t", "t2i", "select"} and 0 < scores["select"] <= 1
    query = data.split.query
    victim = Victim(model=model)
    for attack in (OwnCode(steps=1), CMLA(steps=1, labels="pseudo")):
        goal = own_code_goal(attack, victim, data, "image", query)
        assert goal.label is None
        ids = torch.tensor(data.ids[query])
        made = craft(attack, victim, data.inputs("image", query), goal, ids=ids)
        assert made.stored.shape == (6, 3, 16, 16)
    attack = CMLA(steps=1)
    goal = own_code_goal(attack, victim, data, "image", query)
    with pytest.raises(ConfigError, match="the labels of its items"):
        craft(attack, victim, data.inputs("image", query), goal, ids=ids)
    rows = evaluate({"v": model}, data, {"own-code": OwnCode(steps=1)})
    assert rows.protocol["relevance"] == "own pair"
    assert {row.direction for row in rows.rows} == {"i2t", "t2i"}
