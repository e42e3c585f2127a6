"""Named models: what is known of them stands in their spec, and what is public can be had."""

from typing import get_args

import pytest
import torch

import hcnn
from hcnn.models.factory import HierarchicalName
from hcnn.training.recipes import get_recipe


@pytest.mark.parametrize("name", hcnn.list_models())
def test_a_spec_says_what_a_model_is_made_for(name) -> None:
    spec = hcnn.model_spec(name)
    assert len(spec.image_size) == spec.config.spatial_axes
    assert get_recipe(spec.recipe)
    with torch.device("meta"):
        model = hcnn.create_model(name)
    assert isinstance(model, hcnn.Network)
    assert (model.array_count > 0) == isinstance(model, hcnn.AttributeNetwork)
    modules = dict(model.named_modules())
    assert model.stages
    assert all(stage in modules for stage in model.stages)


def test_names_that_type_checkers_know_are_those_of_the_registry() -> None:
    of_kind = [name for name in hcnn.list_models() if isinstance(hcnn.model_config(name), hcnn.HierarchicalCNNConfig)]
    assert list(get_args(HierarchicalName)) == of_kind


def test_every_public_name_can_be_had() -> None:
    for name in hcnn.__all__:
        assert getattr(hcnn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'MultiscaleConfig'"):
        getattr(hcnn, "MultiscaleConfig")  # noqa: B009


def test_pretrained_networks_carry_their_preprocessing() -> None:
    name = hcnn.list_pretrained()[0]
    found = hcnn.load_pretrained(name)
    model = hcnn.create_model(name, pretrained=True)
    assert model.preprocessing == found.preprocessing == found.model.preprocessing
    assert isinstance(model, hcnn.AttributeNetwork)
    assert model.fold().preprocessing == found.preprocessing
    assert hcnn.create_model(name).preprocessing is None
    assert not any("preprocessing" in key for key in model.state_dict())
