"""A front end for sound: a spectrogram whose log-frequency is an ordered attribute.

Paper, section 3: for audio the first layer computes a wavelet spectrogram x_1(u, v_1), with u time and v_1
log-frequency, and a transposition is a translation along v_1. So the layers of this package convolve along it.
"""

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.functional import Boundary, check_boundary
from hcnn.functional.dtypes import exactly
from hcnn.layers.base import check_number


def log_frequency_filters(
    length: int, bins: int, *, lowest: float, bins_per_octave: float, width: float
) -> tuple[Tensor, Tensor]:
    """Fourier transforms of a constant-Q bank: dilations of one band-pass, evenly spaced along log-frequency.

    ``ψ̂_v(f) = G(f / f_v)`` with ``f_v = lowest · 2^(v / bins_per_octave)`` and
    ``G(r) = exp(-(r - 1)² / 2 width²)`` for r > 0. Only the ratio f / f_v counts.

    Args:
        length: number of samples; frequencies run from 0 to 1/2 in steps of 1 / length.
        bins: number of filters.
        lowest: centre of the first filter, in cycles per sample.
        bins_per_octave: filters in a factor of 2.
        width: standard deviation of each filter, as a fraction of its centre.

    Returns:
        Centres (bins,) in cycles per sample, and filters (bins, length // 2 + 1), float64.

    Example:
        >>> centres, filters = log_frequency_filters(64, 3, lowest=0.125, bins_per_octave=2, width=0.2)
        >>> centres
        tensor([0.1250, 0.1768, 0.2500], dtype=torch.float64)
        >>> filters.argmax(1)
        tensor([ 8, 11, 16])

    """
    centres = lowest * 2 ** (torch.arange(bins, dtype=torch.float64) / bins_per_octave)
    frequencies = torch.arange(length // 2 + 1, dtype=torch.float64) / length
    ratio = frequencies / centres[:, None]
    filters = torch.exp(-((ratio - 1) ** 2) / (2 * width**2))
    filters[:, 0] = 0  # no filter hears a constant
    return centres, filters


def _fast_length(least: int) -> int:
    """The next length without prime factors above 5: Fourier transforms take twice as long where there are."""
    for length in range(least, 2 * least):
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
    return least


class LogFrequency(nn.Module):
    r"""Amplitudes of a constant-Q filter bank, ``x_1(v, u) = (|x * ψ_v| averaged over a hop)(u)``.

    Paper, section 3, the audio example. Nothing is learned. The output is an attribute array with one attribute v_1,
    log-frequency in rising order, so `AttributeConv` with an attribute support convolves along it.

    Law: multiplying the frequency of a sinusoid by ``2^(τ / bins_per_octave)`` translates the output by τ along v_1;
    delaying the sound by ``hop · τ`` samples translates it by τ along u. With ``circular`` the second is exact, and so
    is the first where both sinusoids have a whole number of periods in the sound, which then goes on without a jump.
    Otherwise, and with ``zeros``, they hold up to the ends of u. For a sound of several partials the first holds as far
    as the filters resolve them: where two partials fall into one filter they beat, and at another speed after the
    transposition. (The paper: a transposition is in general no exact transformation of the signal.)

    Args:
        sample_rate: samples per second.
        lowest: centre of the first filter, in Hz.
        bins: number of filters, the size of v_1.
        bins_per_octave: filters in a factor of 2.
        hop: samples per output position; the length of sounds is a multiple of it.
        width: standard deviation of a filter over its centre; by default neighbours meet at about 0.7 of their peaks.
        boundary: how sounds continue outside: "zeros" or "circular".

    Shapes:
        x (b, samples) -> (b, v1, samples / hop), or (b, c, samples) -> (b, v1, c, samples / hop).

    Raises:
        ValueError: at construction for a bank that reaches beyond half the sample rate, for values that are not
            positive, and for bins or a hop that are not whole numbers; in forward for shapes and types that do not fit.

    Example:
        >>> bank = LogFrequency(8000, lowest=100, bins=48, bins_per_octave=12, hop=160)
        >>> second = torch.arange(8000) / 8000
        >>> sounds = torch.stack([torch.sin(2 * torch.pi * f * second) for f in (400.0, 800.0)])
        >>> bank(sounds).mean(2).argmax(1)                    # two octaves and three above 100 Hz
        tensor([24, 36])
        >>> from hcnn import AttributeConv
        >>> AttributeConv(8, attribute_support=(5,), spatial_support=(3,), stride=(2, 1))(bank(sounds)).shape
        torch.Size([2, 24, 8, 50])

    """

    def __init__(
        self,
        sample_rate: float,
        *,
        lowest: float,
        bins: int,
        bins_per_octave: float = 12,
        hop: int = 1,
        width: float | None = None,
        boundary: Boundary = "zeros",
    ) -> None:
        super().__init__()
        check_boundary(boundary, "LogFrequency")
        check_number(bins, 1, "LogFrequency: bins")
        check_number(hop, 1, "LogFrequency: hop")
        given = {"sample_rate": sample_rate, "lowest": lowest, "bins_per_octave": bins_per_octave}
        for name, value in {**given, "width": 1.0 if width is None else width}.items():
            if not (isinstance(value, Real) and math.isfinite(value) and float(value) > 0):
                raise ValueError(f"LogFrequency: {name}: expected a positive number; got {value!r}")
        octaves = (bins - 1) / bins_per_octave
        highest = lowest * 2**octaves if octaves < 1000 else math.inf  # else beyond Python's floats
        if highest > sample_rate / 2:
            raise ValueError(
                f"LogFrequency: {bins} bins from {lowest:g} Hz, {bins_per_octave} an octave, reach {highest:g} Hz; "
                f"expected at most half the sample rate, {sample_rate / 2:g} Hz"
            )
        self.sample_rate, self.lowest, self.bins, self.bins_per_octave = sample_rate, lowest, bins, bins_per_octave
        self.hop, self.boundary = hop, boundary
        # exp(-d²/2 width²) = 0.7 at half the distance of neighbouring centres
        self.width = 0.59 * (2 ** (1 / bins_per_octave) - 1) if width is None else width

    @property
    def reach(self) -> int:
        """Samples on either side after which the longest filter has fallen to e⁻⁸ of its peak."""
        deviation = self.sample_rate / (2 * math.pi * self.width * self.lowest)  # of its envelope, in samples
        return math.ceil(4 * deviation)

    def forward(self, x: Tensor) -> Tensor:
        """(b, samples) -> (b, v1, u), or (b, c, samples) -> (b, v1, c, u)."""
        if not isinstance(x, Tensor):
            raise ValueError(f"LogFrequency: expected a tensor (b, samples); got a {type(x).__name__}")
        shape = tuple(x.shape)
        if x.ndim not in (2, 3) or 0 in shape or shape[-1] % self.hop:
            raise ValueError(
                f"LogFrequency: expected (b, samples) or (b, c, samples), the samples a multiple of the hop "
                f"{self.hop}; got shape {shape}"
            )
        if not x.is_floating_point():
            raise ValueError(f"LogFrequency: expected floating-point samples; got {x.dtype} of shape {shape}")
        with exactly(x):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            samples = shape[-1]
            if self.boundary == "zeros":  # the end meets the beginning: one margin parts them
                wide = F.pad(wide, (0, _fast_length(samples + self.reach) - samples))
            _, filters = log_frequency_filters(
                wide.shape[-1],
                self.bins,
                lowest=self.lowest / self.sample_rate,
                bins_per_octave=self.bins_per_octave,
                width=self.width,
            )
            filters = filters.to(device=x.device, dtype=wide.dtype)
            spectrum = torch.fft.rfft(wide).unsqueeze(1)  # (b, 1, [c,] f)
            spectrum = 2 * spectrum * filters.reshape(1, self.bins, *[1] * (x.ndim - 2), -1)
            # Without its negative frequencies the signal is analytic, and its modulus the amplitude.
            analytic = torch.fft.ifft(spectrum, n=wide.shape[-1])[..., :samples]
            return analytic.abs().unflatten(-1, (-1, self.hop)).mean(-1)  # (b, v, [c,] u)

    def extra_repr(self) -> str:
        """The bank in Hz."""
        return (
            f"{self.bins} bins from {self.lowest:g} Hz, {self.bins_per_octave} an octave, hop {self.hop} of "
            f"{self.sample_rate:g} a second, boundary={self.boundary!r}"
        )
