"""Attacks on database items: drawn by seed, blind to the queries, scored where they lie."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SPEC

from hamward.attacks import (
    CMLA,
    FPAD,
    HAG,
    InfoNCE,
    OwnCode,
    RandomNoise,
    Universal,
    encode,
    own_code_goal,
)
from hamward.codes import hamming_distance
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, UnknownNameError
from hamward.evaluation import CLEAN, Candidates, Evaluation, evaluate, markdown_table, write_report
from hamward.evaluation.crafting import Job
from hamward.evaluation.table import protocol_line
from hamward.metrics import distance_counts, mean_average_precision
from hamward.models import HashModel, Victim, build_hash_model

EPS = {"eps": 24 / 255, "text_eps": 0.6}
OWN = OwnCode(steps=6, **EPS)
SOME = Candidates(count=20, k=5)


def job(model: HashModel, data: RetrievalData, candidates: Candidates, **changes: object) -> Job:
    options = {"name": "v", "attack_name": "a", "attack": OWN, "modality": "image", **changes}
    searched = encode(model, data, "text", data.split.database)
    return Job(model=model, data=data, searched=searched, candidates=candidates, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(_trained: HashModel, data: RetrievalData) -> Evaluation:
    attacks = {
        "noise": RandomNoise(**EPS),
        "own": OWN,
        "fpad": FPAD(steps=6, **EPS),
        "infonce": InfoNCE(steps=6, **EPS),
    }
    return evaluate({"v": _trained}, data, attacks, candidates=SOME)


def test_rows_equal_the_metric_on_a_database_with_these_items_replaced(
    model: HashModel, data: RetrievalData, result: Evaluation
) -> None:
    chosen = SOME.choose(data, seed=0)
    made = job(model, data, SOME).run().crafted
    assert made.ids.tolist() == data.ids[chosen].tolist()
    assert set(chosen) <= set(data.split.database) and len(set(chosen)) == 20
    database = data.split.database
    for direction, asking in (("t2i", "text"), ("i2i", "image")):
        query = data.positions("query", asking)
        asked = encode(model, data, asking, query)
        known = encode(model, data, "image", database)
        with torch.no_grad():
            new = model.eval().logits("image", made.stored)
        known[np.searchsorted(database, chosen)] = torch.where(new >= 0, 1, -1).to(torch.int8)
        counts = distance_counts(
            asked, known, query_labels=data.label(query), database_labels=data.label(database)
        )
        row = result.find("v", "own", direction)
        assert row.map == mean_average_precision(counts).value
        assert (row.role, row.attacked, row.eps) == ("candidate", "image", 24 / 255)
        # Ranks and lists, item by item: nearer ones, and half of those at the same distance.
        distances = hamming_distance(asked, known).numpy()
        placed = distances[:, np.searchsorted(database, chosen)]
        nearer = (distances[:, :, None] < placed[:, None]).sum(1)
        tied = (distances[:, :, None] == placed[:, None]).sum(1)
        found = row.hubness
        assert found is not None and (found.k, found.items) == (5, 20)
        assert found.rank == pytest.approx((nearer + (tied + 1) / 2).mean())
        lists = np.clip((5 - nearer) / tied, 0, 1).sum(0)
        assert found.mean == pytest.approx(lists.mean())
        assert found.most == pytest.approx(lists.max())
        assert found.reach == pytest.approx(lists.mean() / len(query))
        relevant = (data.labels[query].astype(int) @ data.labels[chosen].T) > 0
        each = (((nearer + (tied + 1) / 2) * relevant).sum(0) / relevant.sum(0)).mean()
        assert found.relevant_rank == pytest.approx(each)


def test_candidates_are_found_less_by_whom_they_are_relevant_to(result: Evaluation) -> None:
    assert {r.direction for r in result.rows if r.attack == "own" and r.attacked == "image"} == {
        "t2i",
        "i2i",
    }
    for direction in ("t2i", "i2t"):
        clean, noise = (result.find("v", name, direction) for name in (CLEAN, "noise"))
        assert clean.role == "candidate" and clean.hubness and noise.hubness
        for name in ("own", "fpad", "infonce"):
            row = result.find("v", name, direction)
            assert row.hubness is not None and row.flips > 0.1
            assert row.map < min(clean.map, noise.map) - 0.02
            assert row.hubness.relevant_rank > clean.hubness.relevant_rank + 3
    table = markdown_table(result)
    assert "N_5" in table and "relevant rank" in table
    assert "20 of them perturbed (role candidate) and no query" in protocol_line(result)


def test_the_report_says_what_was_attacked(
    result: Evaluation, data: RetrievalData, tmp_path: Path
) -> None:
    page = write_report(tmp_path, result, data=data, artifacts=tmp_path, title="placed")
    row = result.find("v", "fpad", "t2i")
    assert row.hubness is not None
    for text in (page.read_text(), (tmp_path / "report.md").read_text()):
        assert "20 items of the database were attacked, not the queries. With no color" in text
        assert "How the attacked database items are found" in text
        assert f"{row.hubness.relevant_rank:.0f}" in text
        assert "24/255" in text


def test_hubs_are_found_by_more_of_the_queries_that_they_aim_at(
    model: HashModel, data: RetrievalData
) -> None:
    hubs = dataclasses.replace(SOME, role="hub", label="red", audience="blue", count=8)
    assert (data.labels[hubs.choose(data, seed=0), 0] == 1).all()
    attacks = {"noise": RandomNoise(**EPS), "own": dataclasses.replace(OWN, steps=20)}
    rows = evaluate({"v": model}, data, attacks, modalities=("image",), candidates=hubs)
    clean, noise, own = (rows.find("v", name, "t2i").hubness for name in (CLEAN, "noise", "own"))
    assert clean and noise and own
    assert own.reach > max(clean.reach, noise.reach) + 0.05, "blue queries now find red items"


def test_hubs_for_all_aim_at_the_majority_of_the_known_queries(
    model: HashModel, data: RetrievalData
) -> None:
    hubs = dataclasses.replace(SOME, role="hub")
    chosen = hubs.choose(data, seed=0)
    known = encode(model, data, "text", hubs.known_queries(data, chosen))
    goal = own_code_goal(
        OWN,
        Victim(model=model),
        data,
        "image",
        chosen,
        pool=hubs.known_queries(data, chosen),
        role="hub",
    )
    sums = known.long().sum(0)
    assert goal.toward and (goal.anchor[:, sums != 0] == sums.sign()[sums != 0]).all()


def test_the_queries_are_not_known_to_the_attacker(model: HashModel, data: RetrievalData) -> None:
    """Other queries with other labels: what is crafted is the same, bit by bit."""
    images, bags, labels = data.images.copy(), data.bags.copy(), data.labels.copy()
    query = data.split.query
    images[query], bags[query] = 255 - images[query], 1 - bags[query]
    labels[query] = np.roll(labels[query], 1, axis=1)
    other = dataclasses.replace(data, images=images, bags=bags, labels=labels, digest="")
    for attack in (OWN, FPAD(steps=2, **EPS), InfoNCE(steps=2, **EPS), CMLA(steps=2, **EPS)):
        first, second = (job(model, d, SOME, attack=attack).run() for d in (data, other))
        assert torch.equal(first.crafted.x_adv, second.crafted.x_adv)
    hubs = dataclasses.replace(SOME, role="hub")
    first, second = (job(model, d, hubs).run() for d in (data, other))
    assert torch.equal(first.crafted.x_adv, second.crafted.x_adv)
    known = SOME.known_queries(data, SOME.choose(data, seed=0))
    assert set(known) <= set(data.split.train) - set(SOME.choose(data, seed=0))


def test_items_are_drawn_by_seed_and_kept_for_resuming(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    assert np.array_equal(SOME.choose(data, seed=3), SOME.choose(data, seed=3))
    assert not np.array_equal(SOME.choose(data, seed=3), SOME.choose(data, seed=4))
    first = job(model, data, SOME).run(tmp_path)
    again = job(model, data, SOME).run(tmp_path)
    assert torch.equal(first.crafted.stored, again.crafted.stored)
    with pytest.raises(ArtifactError, match="other options"):
        job(model, data, dataclasses.replace(SOME, role="hub")).run(tmp_path)
    with pytest.raises(ArtifactError, match="other items than are attacked"):
        job(model, data, dataclasses.replace(SOME, count=19)).run(tmp_path)


def test_a_universal_perturbation_and_rounded_pictures_are_placed_too(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attack = {"universal": Universal(epochs=1, batch_size=16, step_size=0.5, **EPS)}
    options = {"modalities": ("image",), "candidates": SOME, "folder": tmp_path, "pictures": True}
    rows = evaluate({"v": model}, data, attack, **options)  # type: ignore[arg-type]
    row = rows.find("v", "universal", "t2i")
    assert row.stored == "8-bit" and row.flips > 0
    assert len(list((tmp_path / "pictures" / "v" / "universal").glob("*.png"))) == 20
    rows.save(tmp_path)
    assert Evaluation.load(tmp_path).rows == rows.rows


def test_real_valued_victims_are_counted_too(model: HashModel, data: RetrievalData) -> None:
    victim = build_hash_model(dataclasses.replace(SPEC, retrieval="cosine"), seed=0)
    victim.load_state_dict(model.state_dict())
    attacks = {"infonce": InfoNCE(steps=4, **EPS)}
    rows = evaluate({"v": victim.eval()}, data, attacks, candidates=SOME, modalities=("text",))
    clean, hit = (rows.find("v", name, "i2t") for name in (CLEAN, "infonce"))
    assert clean.hubness and hit.hubness
    assert hit.map < clean.map and hit.hubness.relevant_rank > clean.hubness.relevant_rank


def test_mistakes_are_named_before_any_work(model: HashModel, data: RetrievalData) -> None:
    def refused(message: str, attack: object = OWN, **options: object) -> None:
        def run() -> None:
            candidates = Candidates(**{"count": 20, **options})  # type: ignore[arg-type]
            evaluate({"v": model}, data, {"a": attack}, candidates=candidates)  # type: ignore[dict-item]

        with pytest.raises(ConfigError, match=message):
            run()

    refused("at most 72, the database items of tiny, got 73", count=73)
    refused("at most 18, the database items with the label 'red' of tiny", label="red", count=40)
    refused("count must be at least 1, got 0", count=0)
    refused("k must be at least 1, got -1", k=-1)
    refused("audience is for the role 'hub'", audience="red")
    refused("a cannot attack items in the role 'candidate'.*in: query", HAG())
    refused("a cannot attack items in the role 'candidate'.*in: query", CMLA(reference="batch"))
    refused("a cannot attack items in the role 'hub'.*in: query, candidate", FPAD(), role="hub")
    refused("no training item of tiny is left", count=72)
    with pytest.raises(UnknownNameError, match="unknown label 'rd': did you mean 'red'"):
        evaluate({"v": model}, data, {"a": OWN}, candidates=Candidates(count=5, label="rd"))
