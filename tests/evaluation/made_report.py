"""A hand-made evaluation for report tests: rows by hand, random codes, no model."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import make_tiny_data

from hamward.artifacts import write_tensors
from hamward.attacks import Budget
from hamward.data import RetrievalData
from hamward.evaluation.evaluate import CLEAN, Curve, Evaluation, Row, adversarial_file
from hamward.types import DIRECTIONS, modalities_of

K = 16
EVIL = "<script>alert(1)</script>"
EPS = {"image": 8 / 255, "text": 0.05}
CURVE = Curve(
    precision=tuple(np.linspace(0.9, 0.3, K + 1).tolist()),
    recall=tuple(np.linspace(0, 1, K + 1).tolist()),
    relevant=tuple([1 / (K + 1)] * (K + 1)),
    irrelevant=tuple([1 / (K + 1)] * (K + 1)),
    precision_at=(0.9, 0.8, 0.7),
    cutoffs=(1, 5, 10),
)


def make_row(victim: str, attack: str, direction: str, score: float, **changes: Any) -> Row:
    modality = modalities_of(direction)[0]  # type: ignore[arg-type]
    attacked = attack != CLEAN
    values = {
        "victim": victim,
        "attack": attack,
        "crafted_on": victim,
        "direction": direction,
        "stored": "feature-space" if attacked and modality == "text" else "8-bit",
        "eps": EPS[modality] if attacked else 0.0,
        "norm": "linf",
        "map": score,
        "low": score - 0.02,
        "high": score + 0.02,
        "optimistic": score + 0.01,
        "pessimistic": score - 0.01,
        "chance": 0.3137,
        "flips": 0.42 if attacked else 0.0,
        "rms": 0.01 if attacked else 0.0,
        "linf": EPS[modality] if attacked else 0.0,
        "queries": 24 if modality == "image" else 23,
        "seconds": 0.01,
    }
    return Row(**{**values, **changes})


def make_evaluation(*rows: Row) -> Evaluation:
    attacks = {
        row.attack: {"class": "RandomNoise" if "noise" in row.attack else "OwnCode", "steps": 10}
        for row in rows
        if row.attack != CLEAN
    }
    return Evaluation(
        protocol={"data": "tiny", "seed": 0, "attacks": attacks},
        rows=rows,
        curves=(CURVE,) * len(rows),
    )


def full_evaluation() -> Evaluation:
    """Two victims, noise, an attack at two budgets, all directions, a transfer, float rows."""
    rows = []
    for place, victim in enumerate(("undefended", "hardened")):
        for offset, direction in enumerate(DIRECTIONS):
            shift = 0.001 * offset + 0.01 * place
            for attack, score in ((CLEAN, 0.8), ("random-noise", 0.75), ("own@8/255", 0.2)):
                keep = 0.4 if place and attack == "own@8/255" else 0.0
                row = make_row(victim, attack, direction, score + shift + keep)
                rows.append(row)
                if attack != CLEAN and direction[0] == "i":
                    crafted = dataclasses.replace(row, stored="float", map=row.map - 0.0123)
                    rows.append(crafted)
            low_eps = EPS[modalities_of(direction)[0]] / 4
            rows.append(make_row(victim, "own@2/255", direction, 0.55 + shift, eps=low_eps))
    rows.append(make_row("hardened", "own@8/255", "i2t", 0.7777, crafted_on="undefended"))
    return make_evaluation(*rows)


def make_data() -> RetrievalData:
    """The tiny set with a word, a label and a name that a page must not execute."""
    data = make_tiny_data()
    return dataclasses.replace(
        data,
        words=(EVIL, *data.words[1:]),
        label_names=(*data.label_names[:3], "<b>yellow</b>"),
        digest="",
    )


def write_artifacts(folder: Path, data: RetrievalData, evaluation: Evaluation) -> None:
    """Write random codes and noisy items for all rows."""
    generator = torch.Generator().manual_seed(5)

    def codes(count: int) -> torch.Tensor:
        return (torch.randint(0, 2, (count, K), generator=generator) * 2 - 1).to(torch.int8)

    for victim in evaluation.victims():
        tensors = {}
        for modality in ("image", "text"):
            query = data.positions("query", modality)
            tensors[f"query/{modality}"] = codes(len(query))
            tensors[f"database/{modality}"] = codes(len(data.split.database))
        for row in evaluation.rows:
            if row.victim != victim or row.attack == CLEAN:
                continue
            modality = modalities_of(row.direction)[0]
            query = data.positions("query", modality)
            key = f"adversarial/{row.attack}/{row.crafted_on}/{modality}"
            tensors[key] = codes(len(query))
            x = data.inputs(modality, query)
            noise = (torch.rand(x.shape, generator=generator) * 2 - 1) * row.eps
            x_adv = (x + noise).clamp(0, 1)
            if row.norm == "edits":
                x_adv = Budget.edits(insertions=int(row.eps) - 1, deletions=1).project(x_adv, x)
            content = {"ids": torch.tensor(data.ids[query]), "x_adv": x_adv}
            write_tensors(adversarial_file(folder, victim, row.attack, modality), content)
        write_tensors(folder / "codes" / f"{victim}.safetensors", tensors)
