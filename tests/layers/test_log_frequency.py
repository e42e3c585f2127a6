"""The spectrogram front end: a transposition is a translation along log-frequency, and how exactly."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from hcnn import AttributeConv, FactorizedConv
from hcnn.functional import translate
from hcnn.layers.log_frequency import LogFrequency
from hcnn.testing import assert_covariant

RATE = 8000


def tone(frequency: float, partials: int = 1, rise: float = 0.0) -> Tensor:
    """One second of a harmonic sound, periodic if the frequency is whole; `rise` makes it glide, in Hz a second."""
    time = torch.arange(RATE, dtype=torch.float64) / RATE
    turns = frequency * time + rise * time**2 / 2
    return torch.stack([torch.cos(2 * torch.pi * n * turns + n) / n for n in range(1, partials + 1)]).sum(0)[None]


def mismatch(layer: nn.Module, low: Tensor, high: Tensor, shift: int) -> float:
    """Relative distance between the array of `high` and that of `low` translated, over the bins known of both."""
    with torch.no_grad():
        x, y = layer(low), layer(high)
    expected, actual = x[:, : x.shape[1] - shift], y[:, shift:]
    return ((expected - actual).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("ratio", "per_octave", "bins", "shift"), [(2, 12, 36, 12), (5 / 4, 1 / math.log2(5 / 4), 12, 1)]
)
def test_transposing_a_sinusoid_translates_it_to_rounding(ratio, per_octave, bins, shift) -> None:
    bank = LogFrequency(RATE, lowest=100, bins=bins, bins_per_octave=per_octave, hop=80, width=0.1, boundary="circular")
    assert mismatch(bank, tone(160), tone(160 * ratio), shift) < 1e-12  # whole periods: measured 1e-14
    assert mismatch(bank, tone(160), tone(160 * ratio), 0) > 0.1


@pytest.mark.parametrize("partials", [1, 8])
@pytest.mark.parametrize("shift", [1, 5, 12])
def test_transposing_a_harmonic_sound_translates_it_nearly(partials, shift) -> None:
    bank = LogFrequency(RATE, lowest=100, bins=60, hop=400)
    low, high = tone(220, partials), tone(220 * 2 ** (shift / 12), partials)
    error = mismatch(bank, low, high, shift)
    assert error < 0.05  # measured 0.002 to 0.03, from the ends of the sound
    for wrong in (shift - 1, shift + 1):
        assert mismatch(bank, low, high, wrong) > 0.9


def test_delaying_a_sound_translates_it_along_time() -> None:
    x = torch.randn(2, RATE, dtype=torch.float64)
    assert_covariant(
        LogFrequency(RATE, lowest=100, bins=24, hop=80, boundary="circular"), x, 1, stride=80, output_axis=2
    )


def test_an_attribute_network_on_top_is_covariant_to_transposition() -> None:
    torch.manual_seed(0)
    bank = LogFrequency(RATE, lowest=100, bins=64, bins_per_octave=12, hop=400, boundary="circular")
    net = nn.Sequential(
        bank,
        AttributeConv(4, attribute_support=(5,), spatial_support=(3,), stride=(2, 1), boundary="circular"),
        FactorizedConv(4, 3, attribute_support=(3, 3), spatial_support=(3,), stride=(2, 2, 1), boundary="circular"),
    ).double()
    net(torch.randn(2, RATE, dtype=torch.float64))
    net.eval()
    x = net(tone(200))
    torch.testing.assert_close(net(tone(400)), translate(x, 1, 3), rtol=0, atol=1e-6)  # 12 bins, strides 2 and 2
    assert (net(tone(400)) - x).abs().max() > 0.1


def test_the_amplitude_of_a_sinusoid_is_heard_and_a_constant_is_not() -> None:
    bank = LogFrequency(RATE, lowest=100, bins=64, bins_per_octave=12, hop=400, width=0.5, boundary="circular")
    heard = bank(3 * tone(200) + 7)
    torch.testing.assert_close(heard[:, 12], torch.full_like(heard[:, 12], 3.0))  # an octave above the lowest


def test_channels_and_precision() -> None:
    bank = LogFrequency(RATE, lowest=100, bins=24, hop=80)
    x = torch.randn(2, 3, 1600)
    y = bank(x)
    assert y.shape == (2, 24, 3, 20)
    torch.testing.assert_close(y[:, :, 1], bank(x[:, 1]))
    assert AttributeConv(4, attribute_support=(3,), spatial_support=(3,), channels=3)(y).shape == (2, 24, 4, 20)
    torch.testing.assert_close(bank(x.double()).float(), y, rtol=1e-4, atol=1e-5)
    assert bank(x.bfloat16()).dtype == torch.float32
    for twin in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        torch.testing.assert_close(twin(x), y)


def test_sounds_that_end_do_not_wrap_around() -> None:
    bank = LogFrequency(RATE, lowest=200, bins=24, hop=80)
    click = torch.zeros(1, 4000, dtype=torch.float64)
    click[:, 20] = 1
    y = bank(click)
    assert y[:, :, -10:].max() < 1e-4 * y.max()
    assert LogFrequency(RATE, lowest=200, bins=24, hop=80, boundary="circular")(click)[:, :, -1].max() > 1e-2 * y.max()


def test_gradients_reach_the_sound() -> None:
    bank = LogFrequency(64, lowest=8, bins=4, bins_per_octave=3, hop=4)
    assert torch.autograd.gradcheck(bank, torch.randn(2, 16, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 66}, r"reach 4271\.49 Hz; expected at most half the sample rate, 4000 Hz"),
        ({"bins": 10**6}, r"reach inf Hz; expected at most half the sample rate, 4000 Hz"),
        ({"bins": 0}, "LogFrequency: bins: expected a whole number of at least 1; got 0"),
        ({"bins": 24.5}, r"LogFrequency: bins: expected a whole number of at least 1; got 24\.5"),
        ({"hop": 2.5}, r"LogFrequency: hop: expected a whole number of at least 1; got 2\.5"),
        ({"lowest": math.nan}, "lowest: expected a positive number; got nan"),
        ({"bins": "24"}, "bins: expected a whole number of at least 1; got '24'"),
        ({"width": -0.1}, r"width: expected a positive number; got -0\.1"),
        ({"boundary": "reflect"}, "LogFrequency: expected boundary 'zeros' or 'circular'; got 'reflect'"),
    ],
)
def test_a_bank_that_cannot_be_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LogFrequency(RATE, **{"lowest": 100, "bins": 24, **options})


def test_bad_sounds_are_explained() -> None:
    bank = LogFrequency(RATE, lowest=100, bins=24, hop=80)
    with pytest.raises(ValueError, match=r"a multiple of the hop 80; got shape \(2, 100\)"):
        bank(torch.randn(2, 100))
    with pytest.raises(ValueError, match=r"expected \(b, samples\) or \(b, c, samples\).*got shape \(800,\)"):
        bank(torch.randn(800))
    with pytest.raises(ValueError, match=r"LogFrequency: expected a tensor \(b, samples\); got a list"):
        bank([0.0] * 800)
    with pytest.raises(ValueError, match=r"floating-point samples; got torch.int16 of shape \(1, 800\)"):
        bank(torch.zeros(1, 800, dtype=torch.int16))
