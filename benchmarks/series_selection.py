"""How series are handled, and which 1-D network: chosen by cross-validation on the training sets, then tested once.

    .venv-docs/bin/python benchmarks/series_selection.py

Writes results/series/README.md. Three folds select; five seeds, trained on the whole training set, are tested.
"""

import itertools
import platform
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from aeon.classification.convolution_based import MiniRocketClassifier, RocketClassifier
from aeon.datasets import load_basic_motions, load_japanese_vowels
from sklearn.model_selection import StratifiedKFold

import hcnn

SETS = {"JapaneseVowels": (load_japanese_vowels, 32, 40), "BasicMotions": (load_basic_motions, 100, 60)}
NETWORKS = {
    "J = 6, stride at 3": (6, (3,)),
    "J = 6, strides at 3, 5": (6, (3, 5)),
    "J = 8, strides at 3, 5": (8, (3, 5)),
}
NOISE = (0.0, 0.2)


def equal_length(series, length: int, how: str) -> np.ndarray:
    """Series (channels, any length) to (n, channels, length): resampled, or filled up with zeros."""
    out = np.zeros((len(series), series[0].shape[0], length), np.float32)
    for row, one in zip(out, series, strict=True):
        n = one.shape[1]
        if how == "zeros":
            row[:, : min(n, length)] = one[:, :length]
        else:
            place = np.linspace(0, n - 1, length)
            row[:] = [np.interp(place, np.arange(n), channel) for channel in one]
    return out


def fit(x, labels, depth, downsample, noise, epochs, seed):
    """An HCNN with K = 8, Q = 16, supports 3 and 5; AdamW, one cycle to 0.01, batches of about 32."""
    torch.manual_seed(seed)
    config = hcnn.HierarchicalCNNConfig(
        channels=x.shape[1],
        classes=int(labels.max()) + 1,
        width=8,
        rank=16,
        depth=depth,
        attribute_support=(3, 5),
        spatial_axes=1,
        downsample=downsample,
    )
    model = hcnn.HierarchicalCNN(config)
    batches = max(1, len(x) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).chunk(batches):
            batch = x[index] + noise * torch.randn_like(x[index]) if noise else x[index]
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels[index], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def score(model, x, labels) -> float:
    """Accuracy in %."""
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == labels).float().mean().item()


def standardized(x: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Channels by mean and deviation of `by`."""
    return (x - by.mean((0, 2), keepdims=True)) / by.std((0, 2), keepdims=True)


def select(name, train, labels, length, epochs) -> tuple[list[str], tuple]:
    """Rows of the table of candidates, and the best of them by its mean over three folds."""
    ways = ("resampled", "zeros") if len({one.shape[1] for one in train}) > 1 else ("as they are",)
    rows, best = [], (-1.0, ())
    for how, (label, (depth, down)), noise in itertools.product(ways, NETWORKS.items(), NOISE):
        x = equal_length(train, length, how)
        folds = StratifiedKFold(3, shuffle=True, random_state=0).split(x, labels)
        scores = []
        for seed, (fitted, held) in enumerate(folds):
            y = torch.tensor(labels)
            z = torch.tensor(standardized(x, x[fitted]))
            scores.append(score(fit(z[fitted], y[fitted], depth, down, noise, epochs, seed), z[held], y[held]))
        mean = float(np.mean(scores))
        rows.append(f"| {name} | {how} | {label} | {noise} | {mean:.1f} | {', '.join(f'{s:.1f}' for s in scores)} |")
        print(rows[-1], flush=True)
        if mean > best[0]:
            best = (mean, (how, label, noise))
    return rows, best[1]


def main() -> None:
    """Select, test, write."""
    torch.set_num_threads(1)
    start = time.time()
    candidates, final = [], []
    for name, (load, length, epochs) in SETS.items():
        (train, train_names), (test, test_names) = load(split="train"), load(split="test")
        classes, labels = np.unique(train_names, return_inverse=True)
        rows, (how, label, noise) = select(name, train, labels, length, epochs)
        candidates += rows
        x, unseen = equal_length(train, length, how), equal_length(test, length, how)
        x, unseen = standardized(x, x), standardized(unseen, x)
        expected = torch.tensor(np.searchsorted(classes, test_names))
        depth, down = NETWORKS[label]
        runs = {f"HCNN ({how}, {label}, noise {noise})": []}
        for seed in range(5):
            model = fit(torch.tensor(x), torch.tensor(labels), depth, down, noise, epochs, seed)
            next(iter(runs.values())).append(score(model, torch.tensor(unseen), expected))
        for kind in (MiniRocketClassifier, RocketClassifier):
            scores = [100 * kind(random_state=s).fit(x, train_names).score(unseen, test_names) for s in range(5)]
            runs[f"aeon {kind.__name__}, the same input"] = scores
        for who, scores in runs.items():
            values = ", ".join(f"{s:.1f}" for s in scores)
            final.append(f"| {name} | {who} | {np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f} | {values} |")
            print(final[-1], flush=True)
    page = [
        "# Time series",
        "",
        "`python benchmarks/series_selection.py`, in the environment of the docs; "
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {time.time() - start:.0f} s.",
        "aeon's own split into training and test series. Accuracy in %.",
        "",
        "## Chosen on the training set",
        "",
        "Three folds of the training set; the test set takes no part. The best row of each data set is tested below.",
        "",
        "| data | lengths | network | noise | mean | folds |",
        "| --- | --- | --- | ---: | ---: | --- |",
        *candidates,
        "",
        "## Test set",
        "",
        "Five seeds each: mean ± standard deviation over seeds, then each.",
        "MiniRocket and Rocket have aeon's settings; Rocket's normalize each series, which takes its level away.",
        "",
        "| data | classifier | test accuracy | seeds 0 … 4 |",
        "| --- | --- | ---: | --- |",
        *final,
        "",
    ]
    path = Path("results/series/README.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
