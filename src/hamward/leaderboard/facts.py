"""The parts of an entry that say what was evaluated; `add` and `verify` make them alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hamward.artifacts import RunFolder, read_json
from hamward.data import RetrievalData
from hamward.evaluation.results import Evaluation
from hamward.leaderboard.entry import DataFacts, ModelFacts, Protocol
from hamward.models import HashModel
from hamward.zoo import StoredFile

__all__ = ["data_facts", "model_facts", "protocol_of"]


def model_facts(
    name: str,
    place: str,
    folder: Path,
    model: HashModel,
    facts: Mapping[str, Any],
    *,
    files: tuple[StoredFile, ...],
) -> ModelFacts:
    """Describe a victim.

    Args:
        name: As evaluated.
        place: Its folder as the entry names it.
        folder: The same folder.
        model: The model.
        facts: From `load_victim`.
        files: All of its folder.
    """
    recipe = RunFolder(folder).info()["config"]
    card = folder / "card.json"
    seed = recipe.get("fit", {}).get("seed")
    purifiers = facts.get("purifiers", {})
    return ModelFacts(
        name=name,
        folder=place,
        method=facts["method"],
        defenses=tuple(step["defense"] for step in facts.get("hardened", ())),
        purifiers=tuple(purifiers[modality]["name"] for modality in sorted(purifiers)),
        code_length=model.code_length,
        retrieval=model.spec.retrieval,
        parameters=sum(p.numel() for p in model.parameters()),
        seed=seed if isinstance(seed, int) else None,
        recipe=dict(recipe),
        card={k: v for k, v in read_json(card).items() if k not in ("schema_version", "history")}
        if card.exists()
        else {},
        files=files,
    )


def data_facts(facts: Mapping[str, Any], data: RetrievalData, *, items: str) -> DataFacts:
    """Describe the data that a victim was evaluated on.

    Args:
        facts: From `load_victim`.
        data: As evaluated, limited or whole.
        items: Digest of vocabulary and whole split.
    """
    return DataFacts(
        name=facts["data"],
        options=dict(facts["data_options"]),
        digest=data.digest,
        split=data.protocol,
        split_digest=data.split_digest,
        items_digest=items,
    )


def protocol_of(evaluation: Evaluation, data: RetrievalData, *, all_queries: int) -> Protocol:
    """Describe how numbers come about."""
    told = evaluation.protocol
    return Protocol(
        metric=told["metric"],
        ties=told["ties"],
        cutoff="none: the whole ranking",
        interval=told["interval"],
        image_scores=told["image_scores"],
        relevance=told["relevance"],
        queries=len(data.split.query),
        all_queries=all_queries,
        database=len(data.split.database),
        seed=int(told["seed"]),
    )
