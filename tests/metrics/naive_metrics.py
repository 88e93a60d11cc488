"""Slow, obvious references: they enumerate, sort and loop."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np


def arrangements(items, relevant):
    """Yield every distinct relevance list that some order of the tied items gives.

    Each is equally likely within a bucket, because each stands for r! (n - r)! orders.
    """
    choices = [
        [[i in chosen for i in range(n)] for chosen in combinations(range(n), r)]
        for n, r in zip(items, relevant, strict=True)
    ]
    for parts in product(*choices):
        yield [flag for part in parts for flag in part]


def average_precision(ranked, *, k, normalizer, total):
    """AP@k of one relevance list as an exact fraction."""
    listed = ranked[:k]
    hits = sum(listed)
    divisor = {"relevant": total, "min": min(total, len(listed)), "hits": hits}[normalizer]
    precisions = [Fraction(sum(listed[: i + 1]), i + 1) for i, flag in enumerate(listed) if flag]
    return sum(precisions, Fraction(0)) / divisor if divisor else Fraction(0)


def counts(query, database, query_labels, database_labels):
    """Items and relevant items at each distance, pair by pair."""
    columns = query.shape[1] + 1
    items = np.zeros((len(query), columns), np.int64)
    relevant = np.zeros_like(items)
    for i in range(len(query)):
        for j in range(len(database)):
            distance = int((query[i] != database[j]).sum())
            items[i, distance] += 1
            relevant[i, distance] += bool(((query_labels[i] > 0) & (database_labels[j] > 0)).any())
    return items, relevant


def ranked(query, database, query_labels, database_labels):
    """Relevance lists ordered by (distance, position), one per query."""
    lists = []
    for i in range(len(query)):
        distances = [int((query[i] != row).sum()) for row in database]
        order = sorted(range(len(database)), key=lambda j: (distances[j], j))
        lists.append([bool((query_labels[i] * database_labels[j]).sum() > 0) for j in order])
    return lists
