"""The first layer's filters that whiten patches."""

import pytest
import torch
from torch import nn

import hcnn
from hcnn.data.image_set import ImageSet
from hcnn.data.preprocessing import fit_preprocessing
from hcnn.layers.randomness import drawn_from
from hcnn.training.first_step import prepare_network
from hcnn.training.recipes import get_recipe
from hcnn.training.whitening import start_by_whitening, whitening_filters


def smooth_images(channels: int, *u: int) -> torch.Tensor:
    """Images whose neighbouring pixels are alike, as those of photographs."""
    noise = torch.randn(400, channels, *u, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for axis in range(2, noise.ndim):
        noise = noise + 0.8 * noise.roll(1, axis)
    return noise


@pytest.mark.parametrize(("u", "support"), [((20,), (5,)), ((12, 12), (3, 3)), ((6, 6, 6), (3, 3, 3))])
def test_responses_to_patches_are_uncorrelated_with_variance_almost_one(u, support) -> None:
    images = smooth_images(2, *u)
    filters = whitening_filters(images, 8, support)[:4]
    conv = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(u) - 1]
    responses = conv(images, filters).transpose(0, 1).flatten(1)
    covariance = torch.cov(responses)
    variances = covariance.diagonal()
    assert (variances > 0.98).all()
    assert (variances <= 1.001).all()
    assert (covariance - variances.diag()).abs().max() < 1e-3


def test_the_first_layer_starts_there_at_its_former_norm_and_others_stay() -> None:
    images = smooth_images(3, 12, 12).float()
    with drawn_from(torch.Generator().manual_seed(0)):
        model = hcnn.create_model("hcnn_small_cifar10")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_by_whitening(model, images)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) == 1
    weight = model.state_dict()[changed[0]]
    assert weight.shape == (8, 3, 3, 3)
    assert weight.norm().item() == pytest.approx(before[changed[0]].norm().item(), rel=1e-5)
    expected = whitening_filters(images, 8, (3, 3))
    assert torch.allclose(weight / weight.norm(), expected / expected.norm(), atol=1e-6)


def test_more_filters_than_eigenvectors_repeat() -> None:
    filters = whitening_filters(smooth_images(1, 9), 10, (3,))
    assert torch.equal(filters[0], filters[3])
    assert torch.equal(filters[:5], -filters[5:])


def test_what_cannot_be_whitened_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images of \(3, 3\) or larger; got \(2, 12\)"):
        whitening_filters(smooth_images(1, 2, 12), 4, (3, 3))
    with pytest.raises(ValueError, match=r"first convolution has a weight \(filters, 3, \*support\); Linear has none"):
        start_by_whitening(nn.Linear(4, 4), smooth_images(3, 12, 12))
    with pytest.raises(ValueError, match="first_layer: expected 'random', as the first layer is frozen"):
        start_by_whitening(nn.Conv2d(3, 4, 3).requires_grad_(False), smooth_images(3, 12, 12))


def test_images_in_the_order_of_their_classes_all_count() -> None:
    smooth = smooth_images(3, 12, 12).mul(20).add(128).clamp(0, 255).byte().repeat(5, 1, 1, 1)
    rough = torch.randint(0, 256, smooth.shape, generator=torch.Generator().manual_seed(0)).byte()
    images = torch.cat([smooth, rough])
    labels = torch.arange(2).repeat_interleave(2000)
    preprocessing = fit_preprocessing(ImageSet(images, labels, ("smooth", "rough"), "sorted"))
    recipe = get_recipe("fast", first_layer="whitening")
    models = [hcnn.create_model("hcnn_small_cifar10") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    prepare_network(models[0], images, preprocessing, recipe)
    start_by_whitening(models[1], preprocessing.standardize(images[:1000]))  # of the first class alone
    own, first = (next(v for v in m.state_dict().values() if v.shape == (8, 3, 3, 3)) for m in models)
    assert (own - first).norm() > 0.1 * own.norm()
