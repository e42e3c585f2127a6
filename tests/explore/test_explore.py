"""Invariant arrays on disk, translations and neighbours, against slow and obvious computations."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hcnn
from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.explore import (
    Arrays,
    AttributeSource,
    ChannelSource,
    Space,
    build_arrays,
    explore_images,
    invariant_arrays,
    neighbours,
    open_arrays,
    shift,
    shuffled_orders,
    smooth,
    untrained_like,
)
from hcnn.runs.load import Run

CLASSES = tuple("0123456789")


def _images(n: int, seed: int = 0) -> ImageSet:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=random)
    return ImageSet(pixels, torch.arange(n) % 10, CLASSES, "noise", allow_empty=True)


@pytest.fixture(scope="module")
def network() -> hcnn.HierarchicalCNN:
    torch.manual_seed(0)
    model = hcnn.create_model("hcnn_digits", boundary="circular")
    images = _images(200)
    twin = untrained_like(model, fit_preprocessing(images).standardize(images.images))
    return twin.requires_grad_(False)  # pyright: ignore[reportReturnType]


# ------------------------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize("position", ["centre", "mean"])
def test_arrays_are_those_of_eq_9_at_every_depth(network, position) -> None:
    images = _images(7)
    plain = fit_preprocessing(images)
    logits, found = invariant_arrays(network, images.images, plain, position=position, batch=3)
    x = plain.standardize(images.images)
    expected, arrays = network(x, return_arrays=True)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(invariant_arrays(network, x, plain, position=position), (logits, found))
    assert list(found) == [3, 4, 5, 6]
    for j, array in found.items():
        values = arrays[j].values
        at = (
            values[..., values.shape[-2] // 2, values.shape[-1] // 2] if position == "centre" else values.mean((-1, -2))
        )
        torch.testing.assert_close(array, at.mean(1))
        assert arrays[j].axes[2:4] == (f"v{j - 1}", f"v{j}")


def test_a_multiscale_network_keeps_its_last_two_attributes() -> None:
    model = hcnn.MultiscaleHierarchicalCNN(hcnn.MultiscaleHierarchicalCNNConfig(channels=1, width=4, depth=5))
    model.eval().requires_grad_(False)
    images = _images(3)
    plain = fit_preprocessing(images)
    _, found = invariant_arrays(model, images.images, plain)
    x4 = model(plain.standardize(images.images), return_arrays=True)[1][4].values
    torch.testing.assert_close(found[4], x4[..., 4 // 2, 4 // 2].mean((1, 2)))


def test_arrays_on_disk_equal_those_in_memory_and_are_found_again(network, tmp_path) -> None:
    images = _images(50)
    plain = fit_preprocessing(images)
    told = []
    stored = build_arrays(tmp_path, network, images, plain, block=20, on_block=lambda done, n: told.append((done, n)))
    assert told == [(20, 50), (40, 50), (50, 50)]
    logits, memory = invariant_arrays(network, images.images, plain)
    assert isinstance(stored.at(5), np.memmap)
    for j, array in memory.items():
        torch.testing.assert_close(torch.from_numpy(np.array(stored.at(j))), array)
    torch.testing.assert_close(torch.from_numpy(np.array(stored.logits)), logits)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = build_arrays(tmp_path, network, images, plain, on_block=lambda done, n: pytest.fail("computed again"))
    assert len(again) == 50
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="depth: expected one of 3, 4, 5, 6; got 7"):
        again.at(7)


def test_arrays_that_find_no_room_on_the_disk_are_refused_at_once(network, small_disk) -> None:
    images = _images(6000)
    with pytest.raises(OSError, match=r"No space left on device while making room for [\d,]+ bytes: .*\.npy"):
        build_arrays(small_disk / "arrays", network, images, fit_preprocessing(images))
    assert [path.name for path in (small_disk / "arrays").iterdir()] == [".lock"]


def test_arrays_of_others_are_not_replaced(network, tmp_path) -> None:
    (tmp_path / "logits.npy").write_bytes(b"mine")
    images = _images(20)
    with pytest.raises(ValueError, match=r"it holds logits\.npy without index\.json, which would be replaced"):
        build_arrays(tmp_path, network, images, fit_preprocessing(images))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("logits.npy", b"mine")]


def test_a_computation_killed_before_its_first_block_begins_anew(network, tmp_path) -> None:
    images = _images(20)
    whole = build_arrays(tmp_path, network, images, fit_preprocessing(images))
    record = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**record, "done": 0}))
    (tmp_path / "logits.npy").unlink()
    again = build_arrays(tmp_path, network, images, fit_preprocessing(images))
    assert (np.asarray(again.logits) == np.asarray(whole.logits)).all()


def test_a_killed_computation_goes_on_where_it_stopped(tmp_path) -> None:
    script = f"""
import os, sys, torch, hcnn
from pathlib import Path
sys.path.insert(0, {str(tmp_path)!r})

from hcnn.explore import build_arrays
from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import fit_preprocessing
torch.manual_seed(0)
model = hcnn.create_model("hcnn_digits").eval()
random = torch.Generator().manual_seed(1)
pixels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=random)
images = ImageSet(pixels, torch.arange(60) % 10, tuple("0123456789"), "noise")
told = []
def on_block(done, n):
    told.append(done)
    if len(sys.argv) > 2 and done >= int(sys.argv[2]):
        os.kill(os.getpid(), 9)
build_arrays(sys.argv[1], model, images, fit_preprocessing(images), block=10, on_block=on_block)
print(told)
"""
    command = [sys.executable, "-c", script]
    killed = subprocess.run([*command, str(tmp_path / "a"), "30"], check=False, capture_output=True)
    assert killed.returncode == -9
    assert json.loads((tmp_path / "a" / "index.json").read_text())["done"] == 30
    resumed = subprocess.run([*command, str(tmp_path / "a")], check=True, capture_output=True, text=True)
    assert resumed.stdout.strip() == "[40, 50, 60]"
    subprocess.run([*command, str(tmp_path / "b")], check=True)
    for path in (tmp_path / "b").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_arrays_of_another_origin_are_refused(network, tmp_path) -> None:
    images = _images(20)
    plain = fit_preprocessing(images)
    with pytest.raises(ValueError, match=r"expected a folder of arrays, with index\.json in it"):
        open_arrays(tmp_path / "x", network, images)
    build_arrays(tmp_path / "x", network, images, plain)
    other = hcnn.create_model("hcnn_digits", boundary="circular").eval()
    with pytest.raises(ValueError, match=r"holds arrays of another origin: weights_sha256 \w+…, expected \w+…"):
        open_arrays(tmp_path / "x", other, images)
    other = hcnn.create_model("hcnn_digits", boundary="zeros").eval()  # the same weights make other arrays
    other.load_state_dict(network.state_dict())
    with pytest.raises(ValueError, match=r"holds arrays of another origin: weights_sha256 \w+…, expected \w+…"):
        open_arrays(tmp_path / "x", other, images)
    with pytest.raises(ValueError, match="another origin: data_sha256"):
        build_arrays(tmp_path / "x", network, _images(20, seed=1), plain)
    with pytest.raises(ValueError, match="another origin: position centre, expected mean"):
        open_arrays(tmp_path / "x", network, images, position="mean")
    with pytest.raises(ValueError, match="expected 'centre' or 'mean'; got 'middle'"):
        build_arrays(tmp_path / "y", network, images, plain, position="middle")  # pyright: ignore
    record = json.loads((tmp_path / "x" / "index.json").read_text())
    (tmp_path / "x" / "index.json").write_text(json.dumps({**record, "done": 5}))
    with pytest.raises(ValueError, match="expected the arrays of 20 images; 5 are done"):
        open_arrays(tmp_path / "x", network, images)
    for text, message in (
        ("{", "expected a record of arrays; expected strict JSON; Expecting property name"),
        ("{}", "expected a record of arrays; it lacks format, weights_sha256"),
        (json.dumps({**record, "done": "all"}), "done: expected a number of images; got all"),
    ):
        (tmp_path / "x" / "index.json").write_text(text)
        with pytest.raises(ValueError, match=rf"index\.json: {message}.* Delete .*x to start again"):
            open_arrays(tmp_path / "x", network, images)


def test_damaged_array_files_are_named(network, tmp_path) -> None:
    images = _images(20)
    build_arrays(tmp_path, network, images, fit_preprocessing(images))
    whole = (tmp_path / "x4.npy").read_bytes()
    (tmp_path / "x4.npy").write_bytes(whole[:200])
    with pytest.raises(ValueError, match=r"x4\.npy: expected an array of shape \(20, 4, 8\)"):
        open_arrays(tmp_path, network, images)
    np.save(tmp_path / "x4.npy", np.zeros((20, 8, 4), np.float32))
    with pytest.raises(ValueError, match=r"x4\.npy: expected float32 of shape \(20, 4, 8\); got float32 of shape"):
        open_arrays(tmp_path, network, images)


def test_weights_beyond_use_are_said(network) -> None:
    broken = hcnn.create_model("hcnn_digits").eval()
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    images = _images(3)
    with pytest.raises(ValueError, match="of image 0 is NaN or infinite: the weights contain NaN or Inf"):
        invariant_arrays(broken, images.images, fit_preprocessing(images))


# ------------------------------------------------------------------------------------------------ translations


@pytest.mark.parametrize("size", [4, 5, 8])
def test_fractional_shifts_form_a_group_and_keep_distances_of_smoothed_arrays(size) -> None:
    a, b = smooth(torch.randn(2, 3, size, dtype=torch.float64), -1)
    for amount in (0.25, -1.5, 2.75):
        torch.testing.assert_close(shift(shift(a, -1, amount), -1, -amount), a)
        torch.testing.assert_close((shift(a, -1, amount) - shift(b, -1, amount)).norm(), (a - b).norm())
    torch.testing.assert_close(shift(shift(a, -1, 0.5), -1, 0.5), a.roll(1, -1))
    torch.testing.assert_close(shift(a, -1, 1 + 1e-9), a.roll(1, -1), atol=1e-7, rtol=0)
    torch.testing.assert_close(smooth(a.roll(1, -1), -1), smooth(a, -1).roll(1, -1))
    torch.testing.assert_close(shift(a, -1, 2.0**200), a.roll(2**200 % size, -1), atol=0, rtol=0)
    for amount in (float("nan"), None):
        with pytest.raises(ValueError, match=f"expected a finite amount; got {amount}"):
            shift(a, -1, amount)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shift: expected an axis between -2 and 1 of \(3, \d\); got 3"):
        shift(a, 3, 0.5)
    with pytest.raises(ValueError, match="shift: expected a tensor; got a list"):
        shift([1.0, 2.0], 0, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="smooth: expected an axis between -2 and 1"):
        smooth(a, 3)
    half = a.bfloat16()  # of which PyTorch has no Fourier transform on the CPU
    torch.testing.assert_close(shift(half, -1, 0.5), shift(half.float(), -1, 0.5).bfloat16())


def test_shuffled_orders_leave_out_what_keeps_the_circle() -> None:
    kept = {tuple((m * v + c) % 8 for v in range(8)) for m in (1, 3, 5, 7) for c in range(8)}
    orders = shuffled_orders(8, 20)
    assert len({tuple(order) for order in orders}) == 20
    assert not kept & {tuple(order) for order in orders}
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert shuffled_orders(8, 20) == orders
    assert [len(shuffled_orders(n, 9)) for n in (2, 3, 4, 16)] == [0, 0, 2, 9]
    assert len(shuffled_orders(5, 50)) == 10  # of 4! / 2 circular orders, all but v and 2 v


# -------------------------------------------------------------------------------------------------- neighbours


def _base(n: int, offset: float = 0.0, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return Arrays(None, {5: (random.normal(size=(n, 4, 8)) + offset).astype(np.float32)}, np.zeros((n, 10)), "circular")


def _slow(base: Arrays, query: int, moves: list[dict[str, int]], axes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """In float64, one query and one difference at a time."""
    values = base.at(5).astype(np.float64)
    for axis in axes:
        values = (values + np.roll(values, -1, axis)) / 2
    rows = []
    for move in moves:
        moved = values[query]
        for name, amount in move.items():
            moved = np.roll(moved, amount, {"v4": 0, "v5": 1}[name])
        gaps = np.sqrt(((values - moved) ** 2).sum((1, 2)))
        gaps[query] = np.inf
        rows.append(gaps)
    order = np.argsort(rows, axis=1, kind="stable")
    return order, np.take_along_axis(np.array(rows), order, 1)


@pytest.mark.parametrize(("offset", "rows"), [(0.0, 65536), (1000.0, 65536), (0.0, 700)])
def test_neighbours_are_those_of_a_slow_search(offset, rows, monkeypatch) -> None:
    monkeypatch.setattr(neighbours, "_ROWS", rows)  # of the database at a time
    base = _base(3000, offset)
    moves = [{}, {"v4": 1}, {"v4": 3, "v5": 2}]
    space = Space(base, 5, ["v4", "v5"], sample=50)
    for query in (0, 17, 2999):
        moved = space.moved(torch.tensor([query]), moves)[0]
        found = space.nearest(moved, 7, exclude=torch.full((3,), query))
        indices, distances = _slow(base, query, moves, [1, 2])
        np.testing.assert_array_equal(found.indices.numpy(), indices[:, :7])
        np.testing.assert_allclose(found.distances.numpy(), distances[:, :7], rtol=2e-4)


def test_equal_and_almost_equal_images_are_told_apart() -> None:
    """Two hundred images nearer to each other than float32 products can tell, far from the rest and from zero."""
    base = _base(1000, 50.0)
    random = np.random.default_rng(1)
    base.at(5)[:200] = base.at(5)[0] + 20 + random.normal(size=(200, 4, 8)) * 1e-3
    space = Space(base, 5, sample=10)
    found = space.nearest(space.moved(torch.tensor([3]), [{}])[0], 5, exclude=torch.tensor([3]))
    expected, distances = _slow(base, 3, [{}], [])
    assert found.indices[0].tolist() == expected[0, :5].tolist()
    np.testing.assert_allclose(found.distances[0].numpy(), distances[0, :5], rtol=1e-2)


def test_of_two_copies_of_an_image_the_first_one_is_found() -> None:
    base = _base(1000)
    base.at(5)[500:] = base.at(5)[:500]
    space = Space(base, 5, sample=10)
    found = space.nearest(space.moved(torch.arange(200), [{"v4": 1}])[:, 0], 2).indices
    assert bool((found[:, 0] < 500).all())
    assert torch.equal(found[:, 1], found[:, 0] + 500)


def test_near_enough_is_calibrated_on_unshifted_images() -> None:
    """By construction about 5 % of unshifted images are called far; a shift to nowhere is; a shift to a twin is not."""
    base = _base(2000)
    space = Space(base, 5, sample=2000)
    every = torch.arange(2000)
    found = space.nearest(space.arrays(every), exclude=every)
    assert 0.93 < float(found.near.float().mean()) < 0.97
    assert abs(float(found.rarity.mean()) - 0.5) < 0.02
    away = space.nearest(space.arrays([0]) + 10)
    assert not bool(away.near)
    assert float(away.rarity) == 0
    base.at(5)[1] = np.roll(base.at(5)[0], 1, 0)
    twin = Space(base, 5).nearest(Space(base, 5).moved(torch.tensor([0]), [{"v4": 1}])[0], exclude=torch.tensor([0]))
    assert twin.indices.item() == 1
    assert bool(twin.near)


def test_the_calibration_of_each_depth_and_smoothing_is_stored_by_itself(tmp_path) -> None:
    memory = _base(200)
    memory.depths[4] = memory.at(5) + 1 / np.arange(1, 9, dtype=np.float32)
    memory.depths[4][:, 0] *= 2
    stored = Arrays(tmp_path, memory.depths, memory.logits, memory.boundary)
    cases = [(5, [], 50), (5, [], 200), (5, ["v4"], 50), (5, ["v4", "v5"], 50), (4, [], 50)]
    for _ in range(2):  # the second time they are read
        for j, axes, sample in cases:
            found, expected = (Space(one, j, axes, sample=sample).nearest_distances() for one in (stored, memory))
            assert torch.equal(found, expected)
    assert len([*tmp_path.iterdir()]) == len(cases)


def test_bad_requests_are_explained() -> None:
    base = _base(20)
    space = Space(base, 5)
    with pytest.raises(ValueError, match="1 ≤ k ≤ 19 neighbours; got 20"):
        space.nearest(space.arrays([0]), 20, exclude=torch.tensor([0]))
    with pytest.raises(ValueError, match="expected an attribute of x_5, one of v3, v4, v5; got 'v6'"):
        space.moved(torch.tensor([0]), [{"v6": 1}])
    with pytest.raises(ValueError, match="expected an attribute of x̄5, v4 or v5; got 'v3'"):
        space.moved(torch.tensor([0]), [{"v3": 1}])
    with pytest.raises(ValueError, match="depth: expected one of 5; got 4"):
        Space(base, 4)


# ------------------------------------------------------------------------------------------------------ sources


def test_an_image_is_named_by_an_integer_of_any_kind(network) -> None:
    base = _images(20)
    explorer = explore_images(Run(Path("none"), network, fit_preprocessing(base), {}), base)
    found = explorer.neighbours(3, 5, [{}], k=2)
    same: list[Any] = [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)]
    for query in same:
        assert torch.equal(explorer.neighbours(query, 5, [{}], k=2).indices, found.indices)
        assert torch.equal(explorer.array(query, 5), explorer.array(3, 5))
        assert torch.equal(explorer.scores(query, 5, [{"v5": 1}]), explorer.scores(3, 5, [{"v5": 1}]))
        assert torch.equal(explorer.image(query), base.images[3])
    assert torch.equal(explorer.image(found.indices[0, 0]), base.images[int(found.indices[0, 0])])
    asks: list[Any] = [
        lambda query: explorer.neighbours(query, 5, [{}]),
        lambda query: explorer.array(query, 5),
        lambda query: explorer.scores(query, 5, [{"v5": 1}]),
        explorer.image,
    ]
    for ask in asks:
        for query in (-1, 20, 10**6, np.int64(-1)):
            with pytest.raises(ValueError, match=f"image: expected a number from 0 to 19; got {query}"):
                ask(query)
        for query in (1.0, "1", torch.tensor(1.0)):
            with pytest.raises(ValueError, match="image: expected a number, or pixels uint8"):
                ask(query)
    with pytest.raises(ValueError, match="moves: expected one translation or more"):
        explorer.neighbours(3, 5, [])
    with pytest.raises(
        ValueError, match=r"moves: expected a list of translations, such as \[{'v5': 1}\]; got {'v4': 1}"
    ):
        explorer.neighbours(3, 5, {"v4": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="moves: expected one translation or more"):
        explorer.scores(3, 5, [])
    with pytest.raises(ValueError, match="expected an attribute of x_5, one of v3, v4, v5; got 'v6'"):
        explorer.scores(3, 5, [{}, {"v6": 1}])


def test_scores_after_whole_translations_are_those_of_proposition_3_1(network) -> None:
    x = torch.randn(6, 1, 8, 8)
    source = AttributeSource(network)
    for j in (3, 4, 5):
        for axis in (f"v{j - 2}", f"v{j - 1}", f"v{j}"):
            step = network.invariant_shift(j, axis)
            dim = int(axis[1:]) - j - 1
            logits = source.scores(x, j, [lambda one, s=s, dim=dim: shift(one, dim, s) for s in (0, step, 0.5)])
            torch.testing.assert_close(logits[0], network(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    assert float((logits[2] - logits[0]).abs().max()) > 1e-3  # pyright: ignore


def test_scores_after_a_translation_along_two_attributes(network) -> None:
    base = _images(20)
    explorer = explore_images(Run(Path("none"), network, fit_preprocessing(base), {}), base)
    found = explorer.scores(3, 5, [{"v4": 1, "v5": 2.5}, {"v4": 1}, {}])
    x = explorer.run.preprocessing.standardize(base.images[3:4])
    with torch.no_grad():
        x5 = network.first_arrays(x, 5)[5].values
        moved = shift(shift(x5, 2, 1), 3, 2.5)  # (b, v3, v4, v5, u1, u2)
        expected = torch.cat([network.forward_from(one, 5) for one in (moved, shift(x5, 2, 1), x5)]).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 1e-3


def test_channels_of_any_network_are_a_source() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ELU(), nn.Conv2d(64, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    source = ChannelSource(net.eval(), {3: "1"}, {3: (2, 4, 8)})
    x = torch.randn(5, 1, 8, 8)
    logits, arrays = source.read(x, "centre")
    torch.testing.assert_close(logits, net(x))
    torch.testing.assert_close(arrays[3].flatten(1), net[1](net[0](x))[:, :, 4, 4])
    moved = source.scores(x, 3, [lambda one: one, lambda one: one.roll(1, -1)])
    torch.testing.assert_close(moved[0], logits)
    rolled = net[1](net[0](x)).unflatten(1, (2, 4, 8)).roll(1, 3).flatten(1, 3)
    torch.testing.assert_close(moved[1], net[4](net[3](net[2](rolled))))
    assert not net[1]._forward_hooks
    with pytest.raises(ValueError, match="there is no"):
        ChannelSource(net, {3: "9"}, {3: (2, 4, 8)})
    with pytest.raises(ValueError, match=r"1: expected 2·4·9 = 72 channels; got 64"):
        ChannelSource(net, {3: "1"}, {3: (2, 4, 9)}).read(x, "centre")


def test_an_untrained_twin_is_reproducible_and_alive(network) -> None:
    images = _images(100)
    x = fit_preprocessing(images).standardize(images.images)
    state = torch.get_rng_state()
    one, two, other = (untrained_like(network, x, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), other(x))
    assert not one.training
    assert float(one(x).detach().std(0).mean()) > 1e-3  # its normalizations have seen the images
    halves = untrained_like(network, x, seed=1, batch=50)  # statistics are those of all batches alike
    name = "layers.0.norm.running_mean"
    torch.testing.assert_close(halves.get_buffer(name), one.get_buffer(name))
    x = torch.cat([x, x[:1] + 10])  # one more than a batch: it counts as one image, not as half of all
    whole, parts = (untrained_like(network, x, seed=1, batch=batch).get_buffer(name) for batch in (101, 100))
    torch.testing.assert_close(parts, whole, rtol=0.05, atol=0.05)
