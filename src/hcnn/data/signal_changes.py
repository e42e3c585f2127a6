"""Known changes of signals along time, and of any standardized input: what an attribute of a network can be tied to."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hcnn.data.image_changes import PROPERTIES, Property, blur, each
from hcnn.data.preprocessing import FloatPreprocessing, Preprocessing

_BANDS = 8  # channels of a signal, at least, that can be transposed


def change_signal(signals: Tensor, name: str, amounts: Tensor) -> Tensor:
    """Change a known property of each signal by its own amount.

    Args:
        signals: (n, c, time), floats whose mean is near 0, as standardized ones.
        name: one of `SIGNAL_PROPERTIES`.
        amounts: (n,), in the property's unit; 0 changes nothing, and larger is louder, higher, later, faster, higher in
            pitch, smoother, noisier.

    Returns:
        (n, c, time), of the same type.

    Raises:
        ValueError: for an unknown property, or signals of another kind.

    Example:
        >>> x = torch.sin(torch.arange(64.0) * 0.3).reshape(1, 1, 64)
        >>> torch.allclose(change_signal(x, "loudness", torch.tensor([1.0])), 2 * x)
        True

    """
    if name not in SIGNAL_PROPERTIES:
        raise ValueError(f"property: expected one of {', '.join(SIGNAL_PROPERTIES)}; got {name!r}")
    if signals.ndim != 3 or not signals.is_floating_point():
        raise ValueError(
            f"{name}: expected signals (n, c, time) of floats; got {signals.dtype} of {tuple(signals.shape)}"
        )
    return SIGNAL_PROPERTIES[name].change(signals, amounts.double())


def known_properties(channels: int, spatial: int) -> Mapping[str, Property]:
    """The properties of inputs with so many channels and spatial axes, by name.

    A transposition needs 8 channels, which are log-frequencies.

    Example:
        >>> list(known_properties(1, 3))
        ['brightness', 'contrast', 'blur', 'noise']

    """
    if spatial == 1:
        return {name: one for name, one in SIGNAL_PROPERTIES.items() if name != "transposition" or channels >= _BANDS}
    return {
        name: one
        for name, one in PROPERTIES.items()
        if (channels == 3 or not one.colour) and (spatial == 2 or (one.volumes and spatial == 3))
    }


class StandardizedChange:
    """Changes inputs as a network takes them: images and volumes on their pixels' scale, signals as they are.

    Args:
        preprocessing: how the inputs were standardized.
        pixels: the smallest and the largest value that a pixel can have; 0 and 1 unless `preprocessing` is of floats.

    """

    def __init__(self, preprocessing: Preprocessing, pixels: tuple[float, float] = (0.0, 1.0)) -> None:
        low, high = pixels if isinstance(preprocessing, FloatPreprocessing) else (0.0, 1.0)
        self.properties = known_properties(len(preprocessing.mean), len(preprocessing.size))
        self._pixels = len(preprocessing.size) > 1
        span = max(high - low, 1e-30)
        shape = (-1, *[1] * len(preprocessing.size))
        self._factor = (torch.tensor(preprocessing.std, dtype=torch.float64) / span).reshape(shape)
        self._offset = ((torch.tensor(preprocessing.mean, dtype=torch.float64) - low) / span).reshape(shape)

    def __call__(self, x: Tensor, name: str, amounts: Tensor, pattern: Tensor | None = None) -> Tensor:
        """Change one property of each input by its own amount.

        Args:
            x: standardized (n, c, *u).
            name: one of `properties`.
            amounts: (n,), float64.
            pattern: noise of deviation 1, of the shape of x; the same one at every call if None.

        Returns:
            Standardized (n, c, *u).

        """
        factor, offset = (one.to(x.device, x.dtype) for one in (self._factor, self._offset))
        y = x * factor + offset if self._pixels else x
        if name == "noise" and pattern is not None:
            y = y + each(amounts, y) * pattern
        else:
            y = self.properties[name].change(y, amounts)
        return (y.clamp(0, 1) - offset) / factor if self._pixels else y


# --------------------------------------------------------------------------------------------------- the changes


def _sample(x: Tensor, place: Tensor) -> Tensor:
    """Values of (n, c, time) at fractional places (n, m), linearly between samples; mirrored beyond the ends."""
    grid = torch.stack([2 * place / max(x.shape[2] - 1, 1) - 1, torch.zeros_like(place)], -1)[:, None].to(x.dtype)
    rows = x[:, :, None]  # (n, c, 1, time)
    return F.grid_sample(rows, grid, mode="bilinear", padding_mode="reflection", align_corners=True)[:, :, 0]


def _places(x: Tensor) -> tuple[Tensor, float]:
    time = torch.arange(x.shape[2], dtype=torch.float64, device=x.device)
    return time, (x.shape[2] - 1) / 2


def _tempo(x: Tensor, amounts: Tensor) -> Tensor:
    """Faster or slower about the middle; the pitch of a sound changes with it, as that of a tape does."""
    time, middle = _places(x)
    return _sample(x, middle + (time - middle) * 2 ** amounts[:, None])


def _position(x: Tensor, amounts: Tensor) -> Tensor:
    time, _ = _places(x)
    return _sample(x, time - x.shape[2] * amounts[:, None])


def _transposition(x: Tensor, amounts: Tensor) -> Tensor:
    """Higher or lower: channels are log-frequencies in rising order, as those of `hcnn.layers.LogFrequency`."""
    channel = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)
    return _sample(x.transpose(1, 2), channel - amounts[:, None]).transpose(1, 2)


def _noise(x: Tensor, amounts: Tensor) -> Tensor:
    return PROPERTIES["noise"].change(x, amounts)


_SIXTHS = (-1.0, -0.67, -0.33, 0.33, 0.67, 1.0)

SIGNAL_PROPERTIES: dict[str, Property] = {
    one.name: one
    for one in [
        Property("loudness", "log₂ of the factor", _SIXTHS, lambda x, a: x * 2 ** each(a, x)),
        Property("offset", "deviations", _SIXTHS, lambda x, a: x + each(a, x)),
        Property("position", "share of the length", (-0.1, -0.05, 0.05, 0.1), _position, range=(-0.1, 0.1)),
        Property("tempo", "log₂ of the factor", (-0.5, -0.25, 0.25, 0.5), _tempo, range=(-0.5, 0.5), moves=True),
        Property("transposition", "channels", (-2.0, -1.0, 1.0, 2.0), _transposition, range=(-2, 2)),
        Property("blur", "σ in samples", (0.5, 1.0, 1.5, 2.0), blur, range=(0, 2)),
        Property("noise", "σ in deviations", (0.1, 0.2, 0.3, 0.5), _noise, range=(0, 0.5)),
    ]
}
