import dataclasses

import pytest
import torch

from hamward.attacks import encode
from hamward.data import RetrievalData
from hamward.errors import AccessError, ConfigError, QueryLimitError, ShapeError
from hamward.index import HammingIndex
from hamward.models import HashModel, QueryLedger, Victim


def test_access_levels_include_the_weaker_ones(model: HashModel, data: RetrievalData) -> None:
    x = data.inputs("image", [0, 1])
    index = HammingIndex.build(encode(model, data, "text", data.positions("database")))
    for access, allowed in (("ranks", 1), ("codes", 2), ("gradients", 3)):
        victim = Victim(model=model, access=access, index=index)
        calls = (
            lambda v=victim: v.ranks("image", x, k=3),
            lambda v=victim: v.codes("image", x),
            lambda v=victim: v.logits("image", x),
        )
        for level, call in enumerate(calls, start=1):
            if level <= allowed:
                call()
                continue
            with pytest.raises(AccessError, match=f"this victim grants '{access}' only"):
                call()
        assert victim.ledger.image == 2 * allowed, "a refused call costs nothing"


def test_ranks_are_those_of_the_index(model: HashModel, data: RetrievalData) -> None:
    database = encode(model, data, "text", data.positions("database"))
    index = HammingIndex.build(database)
    victim = Victim(model=model, access="ranks", index=index)
    x = data.inputs("image", [0, 1, 2])
    codes = encode(model, data, "image", data.positions("query")[:3])
    assert torch.equal(victim.ranks("image", x, k=5), index.search(codes, 5)[1])
    with pytest.raises(AccessError, match="no index"):
        Victim(model=model).ranks("image", x, k=5)
    short = HammingIndex.build(database[:, :8])
    with pytest.raises(ShapeError, match="codes of 16 bits, its index holds 8"):
        Victim(model=model, index=short)


def test_codes_are_full_precision_without_graph_or_traces(
    model: HashModel, data: RetrievalData
) -> None:
    model.train()
    x = data.inputs("image", range(24))
    low = Victim(model=model, low_precision=True)
    assert torch.equal(low.codes("image", x), Victim(model=model).codes("image", x))
    assert model.training and all(p.grad is None for p in model.parameters())


def test_logits_have_a_graph_to_the_input_only(model: HashModel, data: RetrievalData) -> None:
    victim = Victim(model=model)
    x = data.inputs("text", [0, 1]).requires_grad_(True)
    with torch.no_grad(), victim.attacked():
        victim.logits("text", x).sum().backward()
    assert x.grad is not None and x.grad.any()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_ledger_counts_per_modality_up_to_its_limit() -> None:
    ledger = QueryLedger(limit=5)
    ledger.charge("image", 2)
    ledger.charge("text", 3)
    assert (ledger.image, ledger.text, ledger.total) == (2, 3, 5)
    ledger.charge("image", 0)
    with pytest.raises(QueryLimitError, match="1 more text queries exceed the limit: 5 of 5"):
        ledger.charge("text", 1)
    assert ledger.total == 5
    QueryLedger(limit=0).charge("image", 0)
    with pytest.raises(ConfigError, match="limit must be at least 0, got -1"):
        QueryLedger(limit=-1)


def test_victims_are_values(model: HashModel) -> None:
    victim = Victim(model=model)
    assert victim.code_length == 16
    assert Victim(model=model).ledger is not victim.ledger
    with pytest.raises(dataclasses.FrozenInstanceError):
        victim.access = "ranks"  # type: ignore[misc]
