"""
Digits: train, fold, translate, export
======================================

This example trains a small HCNN on scikit-learn's 1,797 handwritten digits and ends with a program that runs without this
package. On the command line, ``hcnn demo`` does most of it.
"""

# %%
# Data and training
# -----------------
# Images are arrays of bytes, `(n, c, u1, u2)`. The split into training and test images is fixed; the test set
# is read once, below. ``circular`` makes translations along attributes exact. The settings of Muon are those of the recipe
# ``fast``, which were chosen on validation images of CIFAR-10. Eight epochs keep this page short; ``hcnn demo`` trains
# longer.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import hcnn
from hcnn.data.datasets import load
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.explore import invariant_arrays
from hcnn.export import export_program
from hcnn.training.evaluate import accuracy
from hcnn.training.recipes import get_recipe
from hcnn.training.trainer import Trainer

torch.set_num_threads(1)  # arrays this small gain nothing from more
torch.manual_seed(0)

data = load("digits")
assert data.test is not None
preprocessing = fit_preprocessing(data.train)
model = hcnn.create_model("hcnn_digits", boundary="circular")
trainer = Trainer(
    model,
    data.train.images,
    data.train.labels,
    preprocessing,
    get_recipe("digits", epochs=8, optimizer="muon", lr=0.05, momentum=0.95),
    seed=0,
)
losses = [progress.loss for progress in trainer.run() if progress.epoch_done]
model.eval()

images, labels = preprocessing.standardize(data.test.images), data.test.labels
print(f"{len(data.train)} training images, {hcnn.count_parameters(model)}")
print(f"test accuracy {100 * accuracy(model, images, labels):.1f} % of {len(labels)} images")
assert accuracy(model, images, labels) > 0.9

figure, axis = plt.subplots(figsize=(6, 2.5), layout="constrained")
axis.plot(range(1, len(losses) + 1), losses, marker="o", markersize=4)
axis.set(xlabel="epoch", ylabel="mean training loss", ylim=(0, None))

# %%
# Fold
# ----
# Without an inner ELU, the factors h and g and both normalizations compose to a single filter per layer.

small = model.fold()
with torch.no_grad():
    difference = (small(images) - model(images)).abs().max().item()
weights = {name: sum(p.numel() for p in net.parameters()) for name, net in (("trained", model), ("folded", small))}
print(f"parameters {weights}, largest difference of a score {difference:.1e}")
assert difference < 1e-3

# %%
# Translate
# ---------
# :math:`x_4` has the attributes v2, v3, v4. A translation along an axis by the product of the strides that follow leaves
# every score unchanged: this is Proposition 3.1 of the paper. Half of that translation need not.

with torch.no_grad():
    logits, arrays = model(images[:200], return_arrays=True)
    for axis_name in ("v3", "v4"):
        x = arrays[4].values
        step = model.invariant_shift(4, axis_name)
        for shift in (step, step // 2):
            moved = hcnn.translate(x, arrays[4].axes.index(axis_name), shift)
            change = (model.forward_from(moved, 4) - logits).abs().max().item()
            print(f"{axis_name} translated by {shift}: scores change by {change:.1e} at most")
        assert (
            model.forward_from(hcnn.translate(x, arrays[4].axes.index(axis_name), step), 4) - logits
        ).abs().max() < 1e-3

# %%
# Which images are near a translated array? This is a small version of the paper's figure 4: a query and, for each shift τ
# along :math:`v_{j-1}`, the training image whose invariant array (eq. 9) is nearest to the shifted array. At τ = 0 it is an
# image of the same digit. :doc:`/explore` measures whether the images found at other shifts are near enough to mean
# something; for digits, most are not.

_, found = invariant_arrays(model, data.train.images, preprocessing)
near = found[5]
queries, shifts = (0, 1, 5), range(near.shape[1])
figure, axes = plt.subplots(len(queries), len(shifts) + 1, figsize=(6.4, 4.2), layout="constrained")
for row, query in zip(axes, queries, strict=True):
    row[0].imshow(data.train.images[query, 0], cmap="gray")
    row[0].set_title("query", fontsize=9)
    for axis, shift in zip(row[1:], shifts, strict=True):
        distances = (near - hcnn.translate(near[query], 0, shift)).flatten(1).norm(dim=1)
        distances[query] = torch.inf
        axis.imshow(data.train.images[int(distances.argmin()), 0], cmap="gray")
        axis.set_title(f"τ = {shift}", fontsize=9)
for axis in axes.flat:
    axis.set_axis_off()

# %%
# Export
# ------
# `hcnn.export` folds the network, includes the standardization, compares the result with the trained network on the given
# images, and only then writes the file. The exported program accepts any number of images of any size, with pixels from 0
# to 1, and runs without this package. On the command line, ``hcnn export`` does the same and can also write ONNX, C and
# safetensors.

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "digits.pt2"
    difference = export_program(file, model, data.train.images[:64], preprocessing)
    program = torch.export.load(file).module()  # unpickles parts of the file: load only your own
    size = file.stat().st_size
with torch.no_grad():
    scores = program(data.test.images.float() / 255)
    expected = model(images)
print(f"a program of {size / 1e3:.0f} kB; largest difference {difference:.0e} of the largest score")
assert (scores - expected).abs().max() <= 1e-4 * expected.abs().max()
