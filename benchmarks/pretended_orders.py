"""How often shifts "follow a property" along an order that means nothing: each shuffled order judged as the true one.

    python benchmarks/pretended_orders.py hcnn_small_cifar10_circular --data-dir DATA

The images, the properties and the verdict are those of `hcnn explore`. Networks are the run and two untrained ones of
its configuration, and each is compared with an untrained one in the same order.
"""

import argparse

import torch

from hcnn.data.image_changes import properties_for
from hcnn.data.splits import spread
from hcnn.explore import AttributeSource, shuffled_orders, untrained_like
from hcnn.explore.images import images_of
from hcnn.explore.meaning import meanings
from hcnn.explore.statistics import Bootstrap
from hcnn.explore.study import draw_queries
from hcnn.explore.tables import ORDERS
from hcnn.explore.verdicts import judge
from hcnn.runs.load import load_named


def main() -> None:
    """Measure the three networks and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data-dir")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--changed", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run = load_named(given.run)
    base, held_out = images_of(run, data_dir=given.data_dir)
    if held_out is None:
        parser.error(f"{given.run}: expected a run with held-out images; it has none")
    asked = draw_queries(held_out, given.queries)
    images = held_out.images[asked][spread(len(asked), given.changed)]
    seen = run.preprocessing.standardize(base.images[spread(len(base), 1000)])
    untrained = [untrained_like(run.model, seen, seed=seed) for seed in (0, 1)]
    boot, found = Bootstrap(len(images)), {}
    for name, model in zip((given.run, "untrained 0", "untrained 1"), (run.model, *untrained), strict=True):
        print(f"{name}: properties", flush=True)
        found[name] = meanings(
            AttributeSource(model), images, run.preprocessing, properties_for(images.shape[1]), boot,
            orders=lambda size: [None, *shuffled_orders(size, given.orders)],
        )  # fmt: skip
    for name, cells in found.items():
        rival = found["untrained 1" if name == "untrained 0" else "untrained 0"]
        counts: dict[tuple[int, str], list[bool]] = {}
        for cell, orders in cells.items():
            for place, own in enumerate(orders):
                others = [one for other, one in enumerate(orders) if other != place]
                row = judge(cell, own, others, {"untrained": rival[cell][place]}, boot, cells=len(cells))
                kind = (len(others), "shuffled orders, judged as if true" if place else "the true order")
                counts.setdefault(kind, []).append(row["verdict"] == "found")
        for (others, kind), verdicts in sorted(counts.items()):
            print(f"{name}, {kind}, against {others} others: found in {sum(verdicts)} of {len(verdicts)} cells")


if __name__ == "__main__":
    main()
