"""
Name an attribute: hue as a translation
=======================================

What an attribute of a trained network means is an open question, and the answer is usually: nothing that has a name. Here
training gives one of them a name. A turn of the hue is trained to be a translation along :math:`v_3`, so that moving along
:math:`v_3` finds images that differ in hue, and class scores hardly depend on it.
"""

# %%
# Digits that only colour shows
# -----------------------------
# Ink and paper have opposite hues and the same luminance. The training images have hues within 45 degrees of one hue; other
# hues are a question that training does not answer by itself.

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import hcnn
from hcnn.data.datasets import load
from hcnn.data.image_changes import change
from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.explore import invariant_arrays, shift, shuffled_orders, smooth
from hcnn.explore.bound import score_bound
from hcnn.functional.hue import TO_YIQ
from hcnn.training import AttributeTie
from hcnn.training.evaluate import accuracy
from hcnn.training.recipes import get_recipe
from hcnn.training.trainer import Trainer

torch.set_num_threads(1)  # arrays this small gain nothing from more


def coloured(images: ImageSet, spread: float, seed: int) -> Tensor:
    """Digits whose hues lie within half of `spread` degrees of one hue, uint8 (n, 3, 8, 8)."""
    random = torch.Generator().manual_seed(seed)
    ink, n = 2 * images.images.float() / 255 - 1, len(images)  # 1 ink, -1 paper
    angle = torch.deg2rad(spread * (torch.rand(n, 1, 1, 1, generator=random) - 0.5))
    light = 0.4 + 0.2 * torch.rand(n, 1, 1, 1, generator=random) + 0.03 * torch.randn(ink.shape, generator=random)
    yiq = torch.cat([light, 0.16 * ink * angle.cos(), 0.16 * ink * angle.sin()], 1)
    pixels = torch.einsum("ij,njhw->nihw", torch.linalg.inv(torch.tensor(TO_YIQ)), yiq)
    return (255 * pixels.clamp(0, 1)).round().to(torch.uint8)


data = load("digits")
assert data.test is not None
train = ImageSet(coloured(data.train, 90, 1), data.train.labels, data.train.classes, "coloured digits")
tests, labels = coloured(data.test, 90, 2), data.test.labels
preprocessing = fit_preprocessing(train)

# %%
# Tie hue to an attribute
# -----------------------
# ``hue=v3@3`` says: turning the hue of an image by a degrees translates :math:`x_3` by ``8 a / 360`` along :math:`v_3`, which
# has 8 values. Each image and a copy with another hue pass the first three layers; one of the two, drawn at random, continues
# to the classes. With weight 0 the network sees the same images without the tie: augmentation alone, the rival to beat. On
# the command line this is ``hcnn train cifar10 --attribute hue=v3@3``.

tie = AttributeTie.parse("hue=v3@3")
models = {}
for name, weight in (("augmentation", 0), ("tied", 1)):
    torch.manual_seed(0)
    model = hcnn.create_model("hcnn_digits", channels=3, boundary="circular")
    recipe = get_recipe("digits", epochs=12, attributes=(AttributeTie("hue", "v3", 3, weight),))
    epochs = Trainer(model, train.images, train.labels, preprocessing, recipe, seed=0).fit()
    models[name] = model
    error = epochs[-1]["equivariance_error hue=v3@3"]
    angles = 360 * torch.rand(len(tests), generator=torch.Generator().manual_seed(3)) - 180
    turned = preprocessing.standardize_floats(change(tests, "hue", angles))
    plain = accuracy(model, preprocessing.standardize(tests), labels)
    print(f"{name}: test accuracy {plain:.1%}, of any hue {accuracy(model, turned, labels):.1%}; error {error:.3f}")
assert error < 0.1

# %%
# Move along it
# -------------
# The array of a query is translated along :math:`v_3`, and the nearest array among 1,437 images of all hues is looked up.
# Above is what the tie promises: the query itself with its hue turned. The images that are found follow in hue; which digit
# they show is not what a layer as early as the third is about. Beneath are two controls: the same translation
# through the values in a shuffled order, and the network that has seen the same images without a tie.

base = coloured(data.train, 360, 4)
amounts, query = torch.arange(-135, 181, 45), tests[4]


def nearest(model: hcnn.AttributeNetwork, order: list[int]) -> list[Tensor]:
    """For each amount the image of `base` whose array is nearest to the query's translated array."""
    arrays, asked = (
        smooth(invariant_arrays(model.eval(), x, preprocessing)[1][3][..., order], 2) for x in (base, query[None])
    )
    moved = (shift(asked, 2, float(tie.shift(amount, 8))) for amount in amounts)
    return [base[int((arrays - one).flatten(1).norm(dim=1).argmin())] for one in moved]


own, shuffled = list(range(8)), shuffled_orders(8, 1)[0]
rows = {
    "query, hue\nturned": [change(query[None], "hue", float(amount))[0] for amount in amounts],
    "found": nearest(models["tied"], own),
    "control:\nshuffled": nearest(models["tied"], shuffled),
    "control:\nnot tied": nearest(models["augmentation"], own),
}
figure, axes = plt.subplots(len(rows), len(amounts), figsize=(8, 4.4), layout="constrained")
for line, (name, images) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis, image in zip(line, images, strict=True):
        axis.imshow(image.permute(1, 2, 0))
        axis.set(xticks=[], yticks=[])
for axis, amount in zip(axes[0], amounts.tolist(), strict=True):
    axis.set_title(f"{amount:+d}°" if amount else "0°", fontsize=9)

# %%
# The law
# -------
# In a periodic network a translation by 4 of 8 values along :math:`v_3` leaves every score unchanged (Proposition 3.1). A
# turn of the hue by 180 degrees can therefore change the scores by no more than the equivariance error times the Lipschitz
# constant of the layers above :math:`x_3`; both are measured here, image by image.

for name, model in models.items():
    x = preprocessing.standardize(tests[:100])
    opposite = preprocessing.standardize_floats(change(tests[:100], "hue", 180))
    found = score_bound(model.eval(), x, opposite, 3, "v3", torch.full((100,), 4.0))
    assert (found.change <= 1.01 * found.bound + 1e-4).all()
    print(f"{name}: scores change by {found.change.mean():.2f}, bound {found.bound.mean():.2f}", end="; ")
    print(f"error {found.error.mean():.2f}, Lipschitz constant {found.lipschitz.mean():.2f}")
