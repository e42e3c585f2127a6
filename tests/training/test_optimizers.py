"""What decays and what is averaged, by the formulas."""

import pytest
import torch
from torch import nn

from hcnn.training.optimizers import RecipeOptimizer, WeightAverage
from hcnn.training.recipe import Recipe


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_weights_decay_and_biases_and_normalizations_do_not(optimizer, capturable) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    one = RecipeOptimizer(model, Recipe(optimizer=optimizer, weight_decay=0.5, momentum=0.0), capturable=capturable)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that nothing but decay changes anything
    one.step(torch.tensor(0.1) if capturable else 0.1)
    for name, value in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in ("0.weight", "3.weight") else 1
        torch.testing.assert_close(value.detach(), factor * before[name], msg=name)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_layer_learns_at_its_factor_of_the_rate(optimizer, capturable) -> None:
    steps: dict[float, list[torch.Tensor]] = {}
    for factor in (1.0, 0.25):
        model = nn.Linear(3, 4)
        factors = dict.fromkeys(model.parameters(), factor)
        recipe = Recipe(optimizer=optimizer, weight_decay=0.0, momentum=0.0)
        one = RecipeOptimizer(model, recipe, factors, capturable=capturable)
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
            parameter.grad = torch.linspace(0.5, 2, parameter.numel()).reshape(parameter.shape)
        one.step(torch.tensor(0.1) if capturable else 0.1)
        steps[factor] = [parameter.detach() for parameter in model.parameters()]
        if optimizer == "muon":  # the bias learns by SGD
            expected = -0.1 * factor * RecipeOptimizer.SIDE_RATE * torch.linspace(0.5, 2, 4)
            torch.testing.assert_close(model.bias.detach(), expected)
    for little, whole in zip(steps[0.25], steps[1.0], strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(little, whole / 4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_with_momentum_are_those_of_their_formulas(nesterov) -> None:
    first, second = torch.tensor([[1.0], [-2.0], [0.5]]), torch.tensor([[3.0], [1.0], [0.5]])
    steps = {}
    for optimizer in ("sgd", "adamw"):
        model = nn.Linear(1, 3, bias=False)
        one = RecipeOptimizer(model, Recipe(optimizer=optimizer, weight_decay=0.0, momentum=0.8, nesterov=nesterov))
        for gradient in (first, second):
            before = model.weight.detach().clone()
            model.weight.grad = gradient.clone()
            one.step(0.1)
            steps[optimizer] = model.weight.detach() - before  # the second
    velocity = 0.8 * first + second
    torch.testing.assert_close(steps["sgd"], -0.1 * (second + 0.8 * velocity if nesterov else velocity))
    mean = (0.8 * 0.2 * first + 0.2 * second) / (1 - 0.8**2)
    square = (0.99 * 0.01 * first**2 + 0.01 * second**2) / (1 - 0.99**2)
    torch.testing.assert_close(steps["adamw"], -0.1 * mean / square.sqrt())


@pytest.mark.parametrize("capturable", [False, True])
def test_muon_takes_weights_in_another_memory_format(capturable) -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    steps = []
    for memory in (torch.contiguous_format, torch.channels_last):
        model = nn.Conv2d(4, 8, 3, bias=False)
        model.weight.data = start.clone(memory_format=memory)
        model.weight.grad = gradient.clone()
        RecipeOptimizer(model, Recipe(optimizer="muon"), capturable=capturable).step(
            torch.tensor(0.1) if capturable else 0.1
        )
        steps.append(model.weight.detach() - start)
    assert (steps[0] - steps[1]).norm() < 0.1 * steps[0].norm()  # it orthogonalizes in bfloat16


def test_the_average_is_that_of_its_formula() -> None:
    model = nn.BatchNorm1d(3)
    average, expected = WeightAverage(model, 0.9), {name: one.clone() for name, one in model.state_dict().items()}
    for _ in range(3):
        for value in model.state_dict().values():
            value.copy_(torch.randn(3) if value.is_floating_point() else value + 1)
        average.update(model)
        for name, value in model.state_dict().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value if value.is_floating_point() else value.clone()
    for name, value in expected.items():
        torch.testing.assert_close(average.state[name], value)
