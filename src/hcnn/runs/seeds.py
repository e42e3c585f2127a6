"""Mean and spread over runs that differ in their seed."""

import math
from typing import Any


def summarize_seeds(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of the accuracies of several seeds.

    Args:
        results: contents of result.json, one per seed.

    Returns:
        For each accuracy the mean, the sample standard deviation (None for one seed) and the values.

    Example:
        >>> summarize_seeds([{"seed": 0, "test_accuracy": 0.9}, {"seed": 1, "test_accuracy": 0.8}])["test_accuracy"]
        {'mean': 0.85, 'std': 0.0707..., 'values': [0.9, 0.8]}
    """
    summary: dict[str, Any] = {"seeds": [result["seed"] for result in results]}
    for name in ("validation_accuracy", "test_accuracy", "test_accuracy_with_flips"):
        values = [result[name] for result in results if name in result]
        if len(values) == len(results):
            mean = math.fsum(values) / len(values)
            spread = (
                math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
            )
            summary[name] = {"mean": round(mean, 6), "std": spread, "values": values}
    return summary
