"""
Sound: log-frequency as an ordered attribute
============================================

For sound, the paper's first layer is a spectrogram :math:`x_1(u, v_1)`, where u is time and :math:`v_1` is log-frequency. A
transposition is then a translation along :math:`v_1`, and layers that convolve along it and finally average over it are
nearly invariant to transposition. Here a network learns six kinds of sounds at low pitches and is tested on pitches an
octave and more above. The sounds are synthetic: they show that the law holds, not how well real sound is recognized.
"""

# %%
# A transposition is a translation
# --------------------------------

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hcnn
from hcnn.layers.log_frequency import LogFrequency
from hcnn.models.attribute_network import Readout

torch.set_num_threads(1)  # arrays this small gain nothing from more

RATE, SAMPLES, HOP = 16000, 4000, 200
bank = LogFrequency(RATE, lowest=110, bins=72, bins_per_octave=12, hop=HOP)
KINDS = ("all partials", "odd partials", "rising", "falling", "major third", "tritone")


def sounds(count: int, lowest: float, highest: float, seed: int) -> tuple[Tensor, Tensor]:
    """A quarter of a second each: kinds in turn, pitch log-uniform between two frequencies, random phases, level and noise."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.arange(count) % len(KINDS)
    pitch = lowest * (highest / lowest) ** torch.rand(count, 1, generator=draw)
    time = torch.arange(SAMPLES) / RATE
    glide = torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0, 0.0])[kinds, None]  # octaves a second
    turns = torch.cumsum(pitch * 2 ** (glide * (time - SAMPLES / RATE / 2)), 1) / RATE
    second = torch.tensor([0.0, 0.0, 0.0, 0.0, 4.0, 6.0])[kinds, None]  # semitones above, if any
    sound = torch.zeros(count, SAMPLES)
    for n in range(1, 5):
        heard = torch.ones(count, 1) if n % 2 else (kinds != 1)[:, None].float()
        for interval in (torch.zeros_like(second), second):
            phase = torch.rand(count, 1, generator=draw)
            strength = heard / n * (1.0 if not interval.any() else (second > 0).float())
            sound += strength * torch.sin(2 * torch.pi * (n * turns * 2 ** (interval / 12) + phase))
    level = 0.3 + torch.rand(count, 1, generator=draw)
    return level * (sound + 0.1 * torch.randn(count, SAMPLES, generator=draw)), kinds


def tone(frequency: float) -> Tensor:
    time = torch.arange(SAMPLES) / RATE
    return sum((torch.sin(2 * torch.pi * n * frequency * time) / n for n in range(1, 5)), torch.zeros(1, SAMPLES))


low, high = bank(tone(220.0)), bank(tone(220.0 * 2 ** (7 / 12)))  # seven semitones, seven bins


def distance(shift: int, ends: int = 0) -> float:
    """Relative distance after a translation; without some frames at both ends, where long filters reach over."""
    a, b = low[:, : 72 - shift, ends : 20 - ends], high[:, shift:, ends : 20 - ends]
    return ((a - b).norm() / a.norm()).item()


errors = {shift: distance(shift) for shift in range(15)}
print(f"relative distance after translating by 7 bins: {errors[7]:.4f}; by 6: {errors[6]:.2f}, by 8: {errors[8]:.2f}")
print(f"by 7 bins, without six frames at each end: {distance(7, ends=6):.4f}")
assert errors[7] < 0.1
assert distance(7, ends=6) < 0.01
assert min(errors[6], errors[8]) > 0.9

figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for axis, array, title in zip(axes, (low, high), ("220 Hz", "seven semitones above"), strict=False):
    axis.imshow(array[0], origin="lower", aspect="auto", cmap="magma")
    axis.set(title=title, xlabel="time u, 12.5 ms", ylabel="log-frequency $v_1$, semitones")
axes[2].plot(list(errors), list(errors.values()), marker="o", markersize=3)
axes[2].set(
    title="distance after a translation", xlabel="translation along $v_1$", ylabel="relative distance", ylim=(0, None)
)

# %%
# A network on top
# ----------------
# The front end is layer 1. Two layers convolve along log-frequency, and the next one averages it out. The package needed no
# change for this, because an `AttributeConv` acts on any array of attributes.


class Compress(nn.Module):
    """Amplitudes to a scale on which loud and quiet are less far apart."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(30 * x) - 1


def attribute_network() -> nn.Module:
    return nn.Sequential(
        Compress(),  # (b, v1 = 72, u)
        hcnn.AttributeConv(8, attribute_support=(7,), spatial_support=(3,), stride=(2, 1)),  # (b, 36, 8, u)
        hcnn.FactorizedConv(8, 9, attribute_support=(7, 5), spatial_support=(3,), stride=(2, 2, 2)),  # (b, 18, 4, 8, u)
        hcnn.FactorizedConv(
            8, 9, attribute_support=(3, 5), spatial_support=(3,), stride=(2, 2, 1), averaged=1
        ),  # (b, 2, 4, 8, u)
        Readout(8, len(KINDS), 1),
    )


def channel_network() -> nn.Module:
    """The control: the same spectrogram, its 72 frequencies as channels without an order."""

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [conv, nn.BatchNorm1d(outputs), nn.ELU()]

    layers = [*layer(72, 12, 1), *layer(12, 12, 2), *layer(12, 12, 1)]
    return nn.Sequential(Compress(), *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, len(KINDS)))


def fit(model: nn.Module, x: Tensor, labels: Tensor, epochs: int = 15, batch: int = 50) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * (len(x) // batch))
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(batch)[: len(x) // batch]:
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def spectrograms(x: Tensor) -> Tensor:
    return torch.cat([bank(part) for part in x.split(100)])  # a bank's intermediate arrays are large


with torch.no_grad():
    sets = {
        "as trained, 150 to 300 Hz": sounds(300, 150, 300, seed=1),
        "an octave above, 300 to 600 Hz": sounds(300, 300, 600, seed=2),
        "1.6 octaves above, 450 to 900 Hz": sounds(300, 450, 900, seed=3),
    }
    heard = {name: (spectrograms(x), kinds) for name, (x, kinds) in sets.items()}
    training, kinds = sounds(600, 150, 300, seed=0)
    x = spectrograms(training)

results: dict[str, dict[str, list[float]]] = {}
for name, build in (("attributes", attribute_network), ("channels", channel_network)):
    results[name] = {key: [] for key in heard}
    for seed in range(2):
        torch.manual_seed(seed)
        model = fit(build(), x, kinds)
        for key, (unseen, expected) in heard.items():
            with torch.no_grad():
                results[name][key].append(100 * (model(unseen).argmax(1) == expected).float().mean().item())
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}, {parameters:,} parameters; test accuracy in % of each of two seeds")
    for key, values in results[name].items():
        print(f"  {key:34s}" + " ".join(f"{value:6.1f}" for value in values))

# %%
# Both networks learn the kinds of sound in the range they were trained on, the one with unordered channels less well. Only
# the network that convolves along log-frequency keeps its answers when the pitch leaves that range. It cannot be exact: an
# axis of 72 semitones has ends, and whatever moves beyond them is lost.

far = "1.6 octaves above, 450 to 900 Hz"
assert min(results["attributes"][far]) > max(results["channels"][far]) + 10
