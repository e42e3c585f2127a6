"""The network in plain PyTorch operations against the network it is made from."""

import pytest
import torch

from hcnn.data.preprocessing import FloatPreprocessing, Preprocessing
from hcnn.export import PlainNetwork, export_c_int8, export_safetensors
from hcnn.export.check_images import synthetic_images
from hcnn.export.plain_network import flatten_taps
from hcnn.export.torch_program import trace
from hcnn.functional import dense_weight

KINDS = ("zeros", "circular", "plus", "plus circular", "published", "line", "multiscale")


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("sizes", "support", "stride"), [((8,), (5,), (2,)), ((4, 8), (5, 7), (2, 2)), ((4, 6, 2), (3, 3, 3), (1, 2, 1))]
)
def test_taps_and_their_index_are_the_dense_weight(sizes, support, stride, boundary) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, *support, 3, 3, dtype=torch.float64)
    taps = flatten_taps(weight, sizes, stride, boundary, channel_axis=True)
    padded = torch.cat([taps.weight, torch.zeros_like(taps.weight[:, :1])], 1)
    gathered = padded[:, taps.index]  # (k, o, a, c, 3, 3); -1 is the row of zeros
    dense = gathered.movedim(1, 0).reshape(-1, taps.index.shape[1] * 2, 3, 3)
    torch.testing.assert_close(dense, dense_weight(weight, sizes, stride, boundary, channel_axis=True))


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_the_plain_network_says_what_the_network_says(name, compact, settled) -> None:
    model = settled(name)
    x = torch.randn(3, model.config.channels, *[12, 8][: model.config.spatial_axes])
    with torch.no_grad():
        expected, got = model(x), PlainNetwork(model, compact=compact)(x)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["zeros", "circular"])
def test_neither_the_default_device_nor_the_default_type_matters(name, settled) -> None:
    model, preprocessing = settled(name), Preprocessing((0.3,), (0.7,), (12, 8), tuple("0123456789"))
    with torch.no_grad():
        images = synthetic_images(1, (12, 8), 3)
        expected = PlainNetwork(model, preprocessing)(images.float() / 255)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                again = synthetic_images(1, (12, 8), 3)
                network = PlainNetwork(model, preprocessing)
                got = [network(again.float() / 255), trace(network).module()(again.float() / 255)]
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(again, images)
    assert torch.equal(got[0], expected)
    torch.testing.assert_close(got[1], expected)


def test_a_network_in_double_or_on_another_device_is_refused(settled) -> None:
    with pytest.raises(ValueError, match=r"expected a float32 network on the CPU; got torch\.float64 on cpu"):
        PlainNetwork(settled("zeros").double())
    with pytest.raises(ValueError, match=r"expected a float32 network on the CPU; got torch\.float32 on meta"):
        PlainNetwork(settled("zeros").to("meta"))


def test_what_is_no_attribute_network_is_refused(settled) -> None:
    with pytest.raises(ValueError, match="export: expected an attribute network; got a Linear"):
        PlainNetwork(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="export: expected a Preprocessing; got a tuple"):
        PlainNetwork(settled("zeros"), ((0.5,), (0.25,)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preprocessing", "says"),
    [
        (Preprocessing((0.3,) * 3, (0.4,) * 3, (8, 8), tuple("0123456789")), "of 1 channels, as the network's; got 3"),
        (Preprocessing((0.3,), (0.4,), (8, 8), ("a", "b")), "of 10 classes, as the network's; got 2"),
    ],
)
def test_the_preprocessing_of_another_network_is_refused(preprocessing, says, settled, tmp_path) -> None:
    """A C file would read beyond its tables, and folded weights could not be loaded."""
    model, images = settled("zeros"), synthetic_images(len(preprocessing.mean), (8, 8), 2)
    for export in (
        lambda: PlainNetwork(model, preprocessing),
        lambda: export_safetensors(tmp_path / "folded", model, preprocessing, ""),
        lambda: export_c_int8(tmp_path / "net.c", model, images, preprocessing),
    ):
        with pytest.raises(ValueError, match=f"expected a preprocessing {says}"):
            export()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_no_file_can_hold_are_refused(value, settled) -> None:
    model = settled("zeros")
    with torch.no_grad():
        model.get_parameter("layers.2.norm.weight")[0] = value
    with pytest.raises(ValueError, match="expected a network of finite numbers; its weights hold NaN or infinities"):
        PlainNetwork(model)


def test_a_network_of_floating_point_images_is_refused(settled, tmp_path) -> None:
    floats = FloatPreprocessing((8.0,), (4.0,), (8, 8), tuple("0123456789"))
    message = "export: expected a network that takes bytes; this one takes floating-point images"
    with pytest.raises(ValueError, match=message):
        PlainNetwork(settled("zeros"), floats)
    with pytest.raises(ValueError, match=message):
        export_safetensors(tmp_path / "folded", settled("zeros"), floats, "")
    assert not list(tmp_path.iterdir())
