"""Model cards: what a trained victim is, how well it retrieves, and what its codes look like."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hamward.artifacts import write_atomically, write_json
from hamward.codes import SATURATION, binarize
from hamward.data import RetrievalData
from hamward.evaluation.report.figures import history_figures
from hamward.evaluation.report.svg import sheet
from hamward.evaluation.report.tables import history
from hamward.evaluation.scoring import counts_of, map_facts
from hamward.evaluation.table import aligned
from hamward.models import HashModel, frozen
from hamward.types import Modality, modalities_of

__all__ = ["card_markdown", "code_statistics", "model_card", "write_card"]


def code_statistics(logits: Float[Tensor, "n k"]) -> dict[str, float]:
    """Return what is worth knowing about the codes of a database.

    Returns:
        balance: mean over bits of the share of the rarer value, 0.5 at best;
        constant_bits: bits with one value for over 99 % of the items;
        distinct: share of items whose code no other item has; mean_abs_logit;
        saturated: share of logits where the derivative of tanh is 0 in float32.
    """
    codes = binarize(logits)
    share = (codes > 0).double().mean(0)
    rarer = torch.minimum(share, 1 - share)
    _, counts = torch.unique(codes, dim=0, return_counts=True)
    return {
        "balance": float(rarer.mean()),
        "constant_bits": int((rarer < 0.01).sum()),
        "distinct": float((counts == 1).sum() / max(len(codes), 1)),
        "mean_abs_logit": float(logits.abs().mean()),
        "saturated": float((logits.abs() > SATURATION).double().mean()),
    }


def model_card(
    model: HashModel, data: RetrievalData, facts: Mapping[str, Any], *, seed: int = 0
) -> dict[str, Any]:
    """Score a model in every direction and describe its codes.

    Args:
        model: A trained model.
        data: Queries and database.
        facts: Plain values about the training.
        seed: Seed of the bootstrap.
    """
    query: dict[Modality, Tensor] = {}
    database: dict[Modality, Tensor] = {}
    for modality in model.modalities:
        query[modality] = _logits(model, data, modality, data.positions("query", modality))
        database[modality] = _logits(model, data, modality, data.split.database)
    real_valued = model.spec.retrieval == "cosine"
    scores = {}
    for direction in data.directions:
        asking, answering = modalities_of(direction)
        if asking not in query or answering not in query:
            continue
        ask, known = query[asking], database[answering]
        counts = counts_of(
            data,
            ask if real_valued else binarize(ask),
            known if real_valued else binarize(known),
            query=data.positions("query", asking),
            database=data.split.database,
        )
        scores[direction] = map_facts(counts, seed=seed)
    return {
        **facts,
        "code_length": model.code_length,
        "retrieval": model.spec.retrieval,
        "parameters": sum(p.numel() for p in model.parameters()),
        "split": {"protocol": data.protocol, "digest": data.split_digest},
        "protocol": f"tie-aware MAP over the whole ranking; relevant: {data.relevance}; 95 % "
        "bootstrap interval over queries",
        "scores": scores,
        "codes": {m: code_statistics(u) for m, u in database.items()},
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write card.json and card.md, with a chart of the epochs (history.svg) if it has some."""
    write_json(folder / "card.json", card)
    figures = history_figures({card.get("method", "model"): card.get("history", ())})
    if figures:
        drawn = sheet(figures[0].panels)
        write_atomically(folder / "history.svg", lambda part: _fill(part, drawn))
    text = card_markdown(card)
    write_atomically(folder / "card.md", lambda part: _fill(part, text))


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return a card for people."""
    lines = [
        f"# {card.get('method', 'model')}, {card['code_length']} "
        f"{'bits' if card['retrieval'] == 'hamming' else 'dimensions'}",
        "",
        f"Trained on {card.get('data', 'unknown data')} (items {card.get('items_digest', '')[:12]}"
        f", split {card['split']['protocol']} {card['split']['digest'][:12]}); "
        f"{card['parameters']:,} parameters.",
        "",
        f"{card['protocol']}.",
        "",
        "| direction | MAP | 95 % | ties against..for | chance | queries |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {d} | {s['map']:.3f} | {s['low']:.3f}-{s['high']:.3f} | "
        f"{s['pessimistic']:.3f}..{s['optimistic']:.3f} | {s['chance']:.3f} | {s['queries']} |"
        for d, s in card["scores"].items()
    ]
    lines += [
        "",
        "| database codes of | balance | constant bits | distinct | mean abs(u) | saturated |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m} | {c['balance']:.2f} | {c['constant_bits']} | {c['distinct']:.0%} | "
        f"{c['mean_abs_logit']:.2f} | {c['saturated']:.1%} |"
        for m, c in card["codes"].items()
    ]
    lines += ["", "## Training", "", "| key | value |", "|---|---|"]
    for key in (
        "method",
        "options",
        "model",
        "fit",
        "pretrained",
        "hardened",
        "purifiers",
        "best_epoch",
    ):
        if key in card:
            lines.append(f"| {key} | `{card[key]}` |")
    if card.get("history"):
        lines += ["", "## Epochs", "", aligned(*history(card["history"]))]
        lines += ["", "Validation MAP; the best epoch was kept.", "", "![Epochs](history.svg)"]
    return "\n".join(lines) + "\n"


def _logits(
    model: HashModel, data: RetrievalData, modality: Modality, positions: NDArray[np.int64]
) -> Float[Tensor, "n k"]:
    made = []
    with torch.no_grad(), frozen(model):
        for chunk in np.split(positions, range(128, len(positions), 128)):
            made.append(model.logits(modality, model.take(data.inputs(modality, chunk))).cpu())
    return torch.cat(made).float()


def _fill(part: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")
