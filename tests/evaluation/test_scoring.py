import pytest

from hamward.attacks import OwnCode, encode
from hamward.data import RetrievalData
from hamward.evaluation.scoring import robust_validation_scores, validation_scores
from hamward.metrics import distance_counts, mean_average_precision
from hamward.models import HashModel


def test_validation_asks_the_training_items(model: HashModel, data: RetrievalData) -> None:
    scores = validation_scores(model, data)
    for direction, asking, answering in (("i2t", "image", "text"), ("t2i", "text", "image")):
        query, database = data.positions("validation", asking), data.split.train
        counts = distance_counts(
            encode(model, data, asking, query),
            encode(model, data, answering, database),
            query_labels=data.label(query),
            database_labels=data.label(database),
        )
        assert scores[direction] == mean_average_precision(counts).value
    assert scores["select"] == pytest.approx((scores["i2t"] + scores["t2i"]) / 2)


def test_robust_scores_add_the_attacked_ones(model: HashModel, data: RetrievalData) -> None:
    clean = validation_scores(model, data)
    attack = OwnCode(eps=8 / 255, text_eps=0.4, steps=3)
    both = robust_validation_scores(model, data, attack)
    assert both["i2t"] == clean["i2t"] and both["t2i"] == clean["t2i"]
    assert both["attacked_i2t"] < both["i2t"]
    parts = [v for k, v in both.items() if k != "select"]
    assert len(parts) == 4 and both["select"] == pytest.approx(sum(parts) / 4)
    images = robust_validation_scores(model, data, attack, modalities=("image",))
    assert set(images) == {"i2t", "t2i", "attacked_i2t", "select"}
    nothing = robust_validation_scores(model, data, OwnCode(eps=0.0, text_eps=0.0))
    assert nothing["attacked_i2t"] == clean["i2t"] and nothing["attacked_t2i"] == clean["t2i"]
