"""
Time series: one axis instead of two
====================================

This example uses two real data sets that ship with the package `aeon <https://www.aeon-toolkit.org>`_, with their own
train and test splits, and aeon's MiniRocket classifier as the baseline. JapaneseVowels is speech: nine men say two vowels,
and the task is to tell who is speaking, from 12 cepstral coefficients over 7 to 29 frames. BasicMotions comes from a smart
watch: four activities, six sensors, 100 samples.
"""

# %%
# Data
# ----
# The recordings in JapaneseVowels differ in length. Each one is resampled to 32 frames by linear interpolation, so time is
# relative. The alternative, padding with zeros, was compared with this on the training set only, as were depth, strides and
# noise (``benchmarks/series_selection.py``); this page uses the settings that won. The length of a recording is lost for
# both classifiers. Within the training set MiniRocket did slightly better on the padded series
# (``results/series/first.md``).

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import hcnn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries below aeon
    from aeon.classification.convolution_based import MiniRocketClassifier
    from aeon.datasets import load_basic_motions, load_japanese_vowels

torch.set_num_threads(1)  # arrays this small gain nothing from more


def resample(series: list[np.ndarray] | np.ndarray, length: int) -> np.ndarray:
    """Series (channels, any length) to one array (n, channels, length), by linear interpolation."""
    places = [np.linspace(0, one.shape[1] - 1, length) for one in series]
    return np.stack(
        [
            np.stack([np.interp(place, np.arange(one.shape[1]), channel) for channel in one])
            for one, place in zip(series, places, strict=True)
        ]
    ).astype(np.float32)


def network(channels: int, classes: int) -> hcnn.HierarchicalCNN:
    return hcnn.HierarchicalCNN(
        hcnn.HierarchicalCNNConfig(
            channels=channels,
            classes=classes,
            width=8,
            rank=16,
            depth=8,
            attribute_support=(3, 5),
            spatial_axes=1,
            downsample=(3, 5),
        )
    )


# %%
# Training
# --------


def fit(x: Tensor, labels: Tensor, classes: int, epochs: int, seed: int) -> hcnn.HierarchicalCNN:
    torch.manual_seed(seed)
    model = network(x.shape[1], classes)
    batches = max(1, len(x) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).chunk(batches):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), labels[index], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


SETS = {"JapaneseVowels": (load_japanese_vowels, 32, 40), "BasicMotions": (load_basic_motions, 100, 60)}
found = {}
for name, (load, length, epochs) in SETS.items():
    (train, train_names), (test, test_names) = load(split="train"), load(split="test")
    lengths = sorted(one.shape[1] for one in train)
    classes, labels = np.unique(train_names, return_inverse=True)
    expected = torch.tensor(np.searchsorted(classes, test_names))
    x, unseen = resample(train, length), resample(test, length)
    mean, deviation = x.mean((0, 2), keepdims=True), x.std((0, 2), keepdims=True)
    x, unseen = (x - mean) / deviation, (unseen - mean) / deviation
    print(f"{name}: {len(x)} series to train on, {len(unseen)} to test, lengths {lengths[0]} to {lengths[-1]}")

    scores = []
    for seed in range(2):
        model = fit(torch.tensor(x), torch.tensor(labels), len(classes), epochs, seed)
        with torch.no_grad():
            scores.append((model(torch.tensor(unseen)).argmax(1) == expected).float().mean().item())
    count = hcnn.count_parameters(model)
    print(f"  HCNN: {', '.join(f'{100 * score:.1f}' for score in scores)} % of two seeds")
    print(
        f"        {count.trained:,} weights trained, {count.composed:,} composed, {count.normalization} of normalizations"
    )

    rocket = [
        MiniRocketClassifier(random_state=seed).fit(x, train_names).score(unseen, test_names) for seed in range(2)
    ]
    print(
        f"  MiniRocket: {', '.join(f'{100 * score:.1f}' for score in rocket)} % of two seeds, about 10,000 fixed features and a ridge classifier"
    )
    found[name] = (min(scores), min(rocket))

# %%
# MiniRocket trains in a second, whereas the network takes many. The network is small, and its arrays can be inspected. The
# upper row shows one test series of each activity, with its six sensors above each other. The lower row shows
# :math:`x_6(v_5, v_6)`, the array before the layer that computes the classes, averaged over time and over :math:`v_4`: the
# mean over the test series of the activity minus the mean over all series. ``model``, ``unseen`` and ``expected`` are those
# of BasicMotions, the last data set of the loop.

with torch.no_grad():
    _, arrays = model(torch.tensor(unseen), return_arrays=True)
x6 = arrays[6].values.mean((1, 4))  # (b, v4, v5, v6, u) to (b, v5, v6)
means = torch.stack([x6[expected == k].mean(0) for k in range(len(classes))]) - x6.mean(0)
bound = means.abs().max().item()
figure, axes = plt.subplots(
    2, len(classes), figsize=(8.5, 4.4), layout="constrained", gridspec_kw={"height_ratios": (3, 2)}
)
for k, name in enumerate(classes):
    first = unseen[int((expected == k).nonzero()[0])]
    axes[0, k].plot(first.T + 6 * np.arange(len(first)), linewidth=0.8)
    axes[0, k].set(title=str(name), yticks=[], xlabel="time u, samples")
    drawn = axes[1, k].imshow(means[k], cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    axes[1, k].set(xlabel="$v_6$", yticks=range(x6.shape[1]))
axes[0, 0].set_ylabel("sensors, standardized")
axes[1, 0].set_ylabel("$v_5$")
figure.colorbar(drawn, ax=axes[1], label="less the mean", shrink=0.9)

assert min(score for score, _ in found.values()) > 0.85
