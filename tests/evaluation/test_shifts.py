"""Changed images: each change does what its name says, more at larger strengths, and alike for every network."""

import csv
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hcnn.evaluation import SHIFTS, figures, measure_shifts, shift_images, write_shifts
from hcnn.evaluation.shifts import Shift, shifts_for


def smooth(count: int = 12, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (24, 24), mode="bicubic").clamp(0, 1) * 255).round().byte()


@pytest.mark.parametrize("name", SHIFTS)
def test_images_move_further_with_strength_and_always_alike(name) -> None:
    images = smooth()
    distances = []
    for strength in SHIFTS[name].strengths:
        changed = shift_images(images, name, strength)
        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(changed, shift_images(images, name, strength))
        distances.append((changed.float() - images.float()).abs().mean().item())
    assert all(less < more for less, more in pairwise([0, *distances]))
    assert len(SHIFTS[name].strengths) == 5


def test_directions_are_drawn_per_image() -> None:
    grey = torch.full((200, 1, 4, 4), 128, dtype=torch.uint8)
    brighter = (shift_images(grey, "brightness", 0.2)[:, 0, 0, 0] > 128).sum().item()
    assert 70 < brighter < 130


@pytest.mark.parametrize("name", SHIFTS)
def test_there_may_be_one_image_or_none(name) -> None:
    strength = SHIFTS[name].strengths[-1]
    assert shift_images(smooth(0), name, strength).shape == (0, 3, 24, 24)
    assert not torch.equal(shift_images(smooth(1), name, strength), smooth(1))


@pytest.mark.parametrize("axis", [2, 3])
def test_a_crop_shows_the_same_thing_larger(axis) -> None:
    """A linear ramp stays a ramp, with its slope times the share that is kept."""
    ramp = torch.linspace(20, 220, 32).round().byte().expand(3, 1, 32, 32).transpose(3, axis).contiguous()
    steps = shift_images(ramp, "crop", 0.6).float().diff(dim=axis).narrow(axis, 2, 27).mean((1, 2, 3))
    torch.testing.assert_close(steps, torch.full((3,), 0.6 * 200 / 31), rtol=0.06, atol=0)


@pytest.mark.parametrize("axis", [2, 3])
def test_crops_lie_anywhere_in_the_image(axis) -> None:
    ramp = torch.linspace(20, 220, 32).round().byte().expand(200, 1, 32, 32).transpose(3, axis).contiguous()
    centres = (shift_images(ramp, "crop", 0.6).float().mean((1, 2, 3)) - 120) / (100 * 32 / 31)  # on the scale -1 to 1
    assert -0.41 < centres.min() < -0.35
    assert 0.35 < centres.max() < 0.41
    assert abs(centres.mean()) < 0.05


def test_a_crop_lies_across_as_independently_as_it_lies_down() -> None:
    ramp = torch.linspace(20, 220, 32).round().byte().expand(200, 1, 32, 32)
    across, down = (shift_images(one.contiguous(), "crop", 0.6).float().mean((1, 2, 3)) for one in (ramp, ramp.mT))
    assert abs(float(torch.corrcoef(torch.stack([across, down]))[0, 1])) < 0.3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_good_jpeg_resembles_its_image_and_a_bad_one_does_not(channels) -> None:
    images = smooth(4, channels)[..., :16]  # higher than wide
    good, bad = ((shift_images(images, "jpeg", quality).float() - images).abs().mean() for quality in (95, 5))
    assert good < 8 < bad  # with its colours exchanged it would be 40


def test_grey_images_have_no_hue() -> None:
    assert len(shifts_for(3)) == 8
    assert [one.name for one in shifts_for(1) if one.name == "hue"] == []
    with pytest.raises(ValueError, match="expected one of crop, jpeg"):
        shift_images(smooth(), "fog", 1)
    with pytest.raises(ValueError, match="expected uint8 images"):
        shift_images(smooth().float(), "blur", 1)
    with pytest.raises(ValueError, match="blur: expected a tensor of images; got a NoneType"):
        shift_images(None, "blur", 1)  # type: ignore[arg-type]
    for strength in ("strong", math.nan):
        with pytest.raises(ValueError, match=f"blur: expected a strength that is a finite number; got {strength!r}"):
            shift_images(smooth(), "blur", strength)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected tensors of images and labels; got a list and a list"):
        measure_shifts(torch.nn.Identity(), [smooth()], [0])  # type: ignore[arg-type]


def test_scores_and_files(tmp_path) -> None:
    """A network that looks at the mean brightness loses by brightness and not by rotation."""
    dark, light = torch.full((20, 1, 12, 12), 90).byte(), torch.full((20, 1, 12, 12), 160).byte()
    images, labels = torch.cat([dark, light]), torch.tensor([0] * 20 + [1] * 20)

    seen = []

    def predict(shown: torch.Tensor) -> torch.Tensor:
        seen.append(shown)
        mean = shown.float().mean((1, 2, 3))
        return torch.stack([125 - mean, mean - 125], 1)

    found = measure_shifts(predict, images, labels)
    assert torch.equal(seen[0], images)
    scores = {(one.shift, one.strength): one.accuracy for one in found}
    assert scores["none", 0] == 1
    assert all(scores["rotation", strength] == 1 for strength in SHIFTS["rotation"].strengths)
    assert scores["brightness", 0.1] == 1
    assert scores["brightness", 0.5] < 0.75
    table = write_shifts({"a $run$": found, "other": found}, tmp_path / "shifts", data="two greys")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["change"], float(row["strength"]), float(row["accuracy"])) for row in rows] == [
        (name, one.shift, one.strength, one.accuracy) for name in ("a $run$", "other") for one in found
    ]
    assert len(rows) == 2 * (1 + 7 * 5)
    assert json.loads((tmp_path / "shifts" / "shifts.json").read_text())["networks"]["other"][0]["accuracy"] == 1
    with Image.open(tmp_path / "shifts" / "shifts.png") as picture:
        assert np.asarray(picture).std() > 0
    assert len(measure_shifts(predict, images[:1], labels[:1])) == len(found)
    for shown, marks in ((images[:0], labels[:0]), (images, labels[:1])):
        with pytest.raises(ValueError, match="measure_shifts: expected images, and as many labels; got"):
            measure_shifts(predict, shown, marks)


def test_strengths_of_ones_own_are_beneath_their_scores(monkeypatch, tmp_path) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    images, labels = smooth(), torch.zeros(len(smooth()), dtype=torch.int64)
    chosen = ([Shift("jpeg", "quality", (60, 20))], [Shift("jpeg", "quality", (20,))])
    found = {
        str(n): measure_shifts(lambda shown: torch.zeros(len(shown), 2), images, labels, shifts)
        for n, shifts in enumerate(chosen)
    }
    figures.draw_shifts(found, tmp_path / "shifts.png")
    axes = kept[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "60", "20"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 1, 2], [0, 2]]
