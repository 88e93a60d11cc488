"""MAP of a NUS-WIDE-sized ranking: the field's sort loop, a bare faiss scan, and hamward.

    python benchmarks/bench_map.py

The three take turns, so that a busy machine slows all of them. hamward's time is from int8 codes
and float labels to the mean: packing, counting and the formula with its bounds. faiss gets packed
codes, ranks nothing but the nearest item, and knows no labels. The loop gets float codes. It is
timed once per query, one slice of the queries each turn; its time is the sum of the slices.
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import torch

from hamward.codes import binarize
from hamward.index import PackedCodes
from hamward.metrics import distance_counts, mean_average_precision, stable_order_map


def make_splits(sizes, *, code_length, labels, seed):
    """Codes that follow skewed label sets, about 2.4 labels an item, as in NUS-WIDE."""
    generator = np.random.default_rng(seed)
    frequency = 1.0 / np.arange(1, labels + 1) ** 0.8
    frequency = np.minimum(0.6, frequency * 2.4 / frequency.sum())
    directions = generator.normal(size=(labels, code_length))
    splits = []
    for n in sizes:
        chosen = generator.random((n, labels)) < frequency
        chosen[~chosen.any(1), 0] = True
        logits = chosen @ directions + 1.5 * generator.normal(size=(n, code_length))
        splits.append((binarize(torch.from_numpy(logits)), torch.from_numpy(chosen).float()))
    return splits


def field_loop(query, database, query_labels, database_labels):
    """AP of each query as cross-modal hashing code computes it: one sort per query."""
    scores = []
    for i in range(len(query)):
        relevant = (query_labels[i : i + 1] @ database_labels.T > 0).float().squeeze(0)
        total = int(relevant.sum())
        if total == 0:
            continue
        distance = 0.5 * (query.shape[1] - query[i : i + 1] @ database.T).squeeze(0)
        order = torch.sort(distance, stable=True).indices
        positions = torch.nonzero(relevant[order]).squeeze(1).float() + 1.0
        scores.append(float((torch.arange(1, total + 1) / positions).mean()))
    return scores


def scans(index, packed, threads):
    """The two ways to give faiss its threads."""

    def inside():
        faiss.omp_set_num_threads(threads)
        index.search(packed, 1)

    def split():
        def part(rows):
            faiss.omp_set_num_threads(1)  # the OpenMP setting is per thread
            index.search(rows, 1)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, np.array_split(packed, threads)))

    return {"OpenMP": inside, "split queries": split}


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=2_100)
    parser.add_argument("--items", type=int, default=193_734)
    parser.add_argument("--code-length", type=int, default=32)
    parser.add_argument("--labels", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    (query, query_labels), (database, database_labels) = make_splits(
        (args.queries, args.items),
        code_length=args.code_length,
        labels=args.labels,
        seed=args.seed,
    )
    sets = {"query_labels": query_labels, "database_labels": database_labels}
    print(
        f"{args.queries:,} queries x {args.items:,} items x {args.code_length} bits, "
        f"{args.labels} labels ({database_labels.sum(1).mean():.2f} an item), "
        f"{args.threads} threads each, {args.repeats} turns"
    )

    packed = PackedCodes.from_codes(query).bytes.numpy()
    index = faiss.IndexBinaryFlat(8 * packed.shape[1])
    index.add(PackedCodes.from_codes(database).bytes.numpy())
    float_query, float_database = query.float(), database.float()

    def ours():
        counts = distance_counts(query, database, **sets, threads=args.threads)
        return mean_average_precision(counts)

    first, score = seconds(ours)  # compiles, or loads what an earlier run compiled
    times = {"loop": [], "hamward": []}
    faiss_times = {}
    loop_scores = []
    for rows in torch.arange(args.queries).tensor_split(args.repeats):
        spent, part = seconds(
            lambda rows=rows: field_loop(
                float_query[rows], float_database, query_labels[rows], database_labels
            )
        )
        times["loop"].append(spent)
        loop_scores += part
        for name, scan in scans(index, packed, args.threads).items():
            faiss_times.setdefault(name, []).append(seconds(scan)[0])
        times["hamward"].append(seconds(ours)[0])

    loop = sum(times["loop"])
    hamward = statistics.median(times["hamward"])
    setup, scan = min(
        ((name, statistics.median(spent)) for name, spent in faiss_times.items()),
        key=lambda pair: pair[1],
    )
    rows = [
        ("sort loop (PyTorch)", loop),
        (f"faiss top-1 scan ({setup})", scan),
        ("hamward, all in", hamward),
    ]
    print(f"{'':32}{'seconds':>10}{'loop / it':>12}{'it / scan':>12}")
    for name, spent in rows:
        print(f"{name:32}{spent:10.4f}{loop / spent:11.1f}x{spent / scan:11.2f}x")
    other = ", ".join(f"{name} {statistics.median(t):.4f}" for name, t in faiss_times.items())
    print(f"faiss by setup: {other}; hamward's first call: {first:.2f} s")

    loop_map = float(np.mean(loop_scores))
    legacy = stable_order_map(query, database, **sets)
    print(
        f"MAP: loop {loop_map:.6f}, stable order {legacy.value:.6f}, tie-aware {score.value:.6f} "
        f"in [{score.pessimistic:.6f}, {score.optimistic:.6f}]"
    )
    if len(loop_scores) != score.queries or abs(loop_map - legacy.value) > 1e-5:
        raise SystemExit("the stable-order MAP is not the loop's")
    if not score.pessimistic <= legacy.value <= score.optimistic:
        raise SystemExit("the stable-order MAP is outside the bounds of all tie orders")


if __name__ == "__main__":
    main()
