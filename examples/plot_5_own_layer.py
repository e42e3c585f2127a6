"""
In your own network: a ResNet stage, a U-Net stage
==================================================

`AttributeBlock` replaces a 3×3 convolution together with its batch normalization and its non-linearity, and keeps the
number of channels. It treats the channels as an array of attributes, here 64 = 2×4×8 (the sizes of HCNN with K = 8),
averages out the oldest one, and convolves along the others. The layers work under autocast, ``torch.compile``,
``torch.func``, DDP, ``deepcopy``, pickling, ``parametrize`` and gradient checkpointing; tests check each of these.
"""

# %%
# A residual network
# ------------------
# This is a small, ordinary ResNet with three stages. Its kind of convolution is a parameter.

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hcnn
from hcnn.data.datasets import load
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.training.evaluate import accuracy

torch.set_num_threads(1)  # arrays this small gain nothing from more

ATTRIBUTES = {16: (2, 2, 4), 32: (2, 4, 4), 64: (2, 4, 8)}
Unit = Callable[[int], nn.Module]


def ordinary(channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ELU())


def attributes(channels: int) -> nn.Module:
    return hcnn.AttributeBlock(ATTRIBUTES[channels], support=(3, 5), rank=16)


class Residual(nn.Module):
    def __init__(self, channels: int, unit: Unit) -> None:
        super().__init__()
        self.body = nn.Sequential(unit(channels), unit(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def resnet(last_stage: Unit) -> nn.Module:
    def down(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs), nn.ELU())

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        Residual(16, ordinary),
        down(16, 32),
        Residual(32, ordinary),
        down(32, 64),
        Residual(64, last_stage),
        Residual(64, last_stage),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def fit(model: nn.Module, x: Tensor, target: Tensor, loss_of: Callable[..., Tensor], steps: int) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), 0.005)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss_of(model(x[index]), target[index]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


data = load("digits")
assert data.test is not None
preprocessing = fit_preprocessing(data.train)
train_x, test_x = (preprocessing.standardize(part.images) for part in (data.train, data.test))

reports = {}
for name, unit in (("3×3 convolutions", ordinary), ("attribute blocks", attributes)):
    torch.manual_seed(0)
    model = resnet(unit)
    stage = weights(model[5]) + weights(model[6])
    fit(model, train_x, data.train.labels, F.cross_entropy, steps=60)
    reports[name] = (stage, accuracy(model, test_x, data.test.labels))
    print(
        f"{name}: last stage {stage:,} parameters, network {weights(model):,}, test accuracy {100 * reports[name][1]:.1f} %"
    )

saved = reports["3×3 convolutions"][0] - reports["attribute blocks"][0]
print(f"{saved:,} parameters saved, {100 * saved / reports['3×3 convolutions'][0]:.0f} % of the stage")
assert reports["attribute blocks"][1] > 0.9

# %%
# A U-Net
# -------
# The same block replaces the lowest level of a U-Net, which holds most of the weights. The task is to remove noise from
# digits.


class UNet(nn.Module):
    def __init__(self, bottom: Unit) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ELU())
        self.down = nn.Conv2d(16, 64, 2, stride=2)
        self.bottom = nn.Sequential(bottom(64), bottom(64))
        self.up = nn.ConvTranspose2d(64, 16, 2, stride=2)
        self.leave = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ELU(), nn.Conv2d(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        across = self.enter(x)
        return self.leave(torch.cat([across, self.up(self.bottom(self.down(across)))], 1))


torch.manual_seed(1)
noisy_train, noisy_test = (x + torch.randn_like(x) for x in (train_x, test_x))
rows = {"noisy": noisy_test[:10]}
for name, unit in (("3×3 convolutions", ordinary), ("attribute blocks", attributes)):
    torch.manual_seed(0)
    model = fit(UNet(unit), noisy_train, train_x, F.mse_loss, steps=60)
    with torch.no_grad():
        cleaned = model(noisy_test)
    rows[name], error = cleaned[:10], F.mse_loss(cleaned, test_x).item()
    bottom = weights(model.bottom)
    print(f"{name}: bottom {bottom:,} parameters, U-Net {weights(model):,}, error {error:.3f} (noisy: 1.0)")
    assert error < 0.8

rows["clean"] = test_x[:10]
figure, axes = plt.subplots(len(rows), 10, figsize=(8, 3.4), layout="constrained")
for row, (name, digits) in zip(axes, rows.items(), strict=True):
    for axis, digit in zip(row, digits, strict=True):
        axis.imshow(digit[0], cmap="gray", vmin=train_x.min(), vmax=train_x.max())
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=8)

# %%
# What else to know
# -----------------
# - The size of each of the block's attributes must divide the next one; their product is the number of channels.
# - For statistics over several processes use ``hcnn.layers.normalization.synchronize(model, group)`` instead of
#   ``SyncBatchNorm``.
# - Under ``torch.func`` in training mode, pass the buffers as arguments of the transformed function, because running
#   statistics are updated in place, as in any batch normalization. Per-sample gradients are meant for evaluation mode.
# - First derivatives come from backward passes. Second derivatives and forward mode (``torch.func.jvp``, ``hessian``) are
#   there for folded networks in float64 without an inner ELU that compute in the dense form:
#   ``hcnn.HierarchicalCNN(config, method="dense").double().fold()``.
