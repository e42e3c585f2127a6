"""The layers inside other people's networks, under the tools that those people use."""

import copy
import io
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from hcnn import AttributeBlock, AttributeConv, FactorizedConv
from hcnn.layers.folded import fold_layer
from hcnn.testing import assert_covariant


def layer_of(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    if kind == "plain":
        layer = AttributeConv(4, attribute_support=(3,), stride=(2, 1, 1))
        return layer, torch.randn(4, 8, 6, 6)
    if kind == "block":
        return AttributeBlock((2, 4, 4), support=(3, 3), rank=5), torch.randn(4, 32, 6, 6)
    layer = FactorizedConv(4, 5, attribute_support=(3,), stride=(2, 1, 1), averaged=1, inner_elu=kind == "plus")
    return layer, torch.randn(4, 2, 8, 6, 6)


KINDS = ("plain", "factorized", "plus", "block")


class ResidualStage(nn.Module):
    """A stage of a ResNet whose convolutions are attribute convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.first = AttributeBlock((2, 4, 4), support=(3, 3), rank=5)
        self.second = AttributeBlock((2, 4, 4), support=(3, 3), rank=5, inner_elu=True)
        self.classes = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.second(self.first(x))
        return self.classes(x.mean((2, 3)))


class UStage(nn.Module):
    """The lowest two levels of a U-Net: down, through attribute convolutions, up, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 2, stride=2)
        self.bottom = AttributeBlock((2, 4, 4), support=(3, 3), rank=5)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.join = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.join(torch.cat([x, self.up(self.bottom(self.down(x)))], 1))


def train(model: nn.Module, x: Tensor, loss_of, steps: int = 60) -> tuple[float, float]:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(steps):
        loss = loss_of(model(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_a_residual_stage_learns_and_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model, labels = ResidualStage(), torch.arange(24) % 3
    x = torch.randn(24, 3, 8, 8) + 0.7 * labels[:, None, None, None]
    first, last = train(model, x, lambda y: nn.functional.cross_entropy(y, labels))
    assert last < 0.2 * first
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_u_net_stage_learns() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 1, 8, 8)
    target = nn.functional.avg_pool2d(x, 3, 1, 1)
    first, last = train(UStage(), x, lambda y: nn.functional.mse_loss(y, target))
    assert last < 0.2 * first


def test_the_block_is_covariant_along_its_attributes() -> None:
    block = AttributeBlock((2, 4, 8), support=(3, 5), rank=5, boundary="circular").double()
    x = torch.randn(2, 64, 4, 4, dtype=torch.float64)
    block(x)
    block.eval()

    def as_arrays(x: Tensor) -> Tensor:  # (b, v1, v2, v3, u1, u2)
        return block(x.flatten(1, 3)).unflatten(1, (2, 4, 8))

    x = x.unflatten(1, (2, 4, 8))
    for axis in (2, 3):
        assert_covariant(as_arrays, x, axis, stride=2, output_axis=axis - 1)


def test_the_block_explains_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"attributes that divide the next one; got \(3, 4\)"):
        AttributeBlock((3, 4), support=(3,))
    with pytest.raises(ValueError, match=r"sizes of two or more attributes; got \(2, '4'\)"):
        AttributeBlock((2, "4"), support=(3,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"two or more attributes; got \(8,\)"):
        AttributeBlock((8,), support=())
    with pytest.raises(ValueError, match=r"a support for each attribute but the first of \(2, 4\); got \(3, 3\)"):
        AttributeBlock((2, 4), support=(3, 3))
    with pytest.raises(ValueError, match="expected a support for each attribute, as a tuple; got 3"):
        AttributeBlock((2, 4), support=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a support for each spatial axis, as a tuple; got 3"):
        AttributeBlock((2, 4), support=(3,), spatial_support=3)  # type: ignore[arg-type]
    for attributes in ((2, 0, 4), (2.0, 4)):
        with pytest.raises(ValueError, match="expected sizes of two or more attributes; got"):
            AttributeBlock(attributes, support=(3,) * (len(attributes) - 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected \(b, c, u1, u2\) with c = 8 channels.*got shape \(1, 9, 4, 4\)"):
        AttributeBlock((2, 4), support=(3,))(torch.ones(1, 9, 4, 4))
    with pytest.raises(ValueError, match=r"expected \(b, c, u1, u2\) with c = 8 channels.*got a list"):
        AttributeBlock((2, 4), support=(3,))([1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind) -> None:
    layer, x = layer_of(kind)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().mean().backward()
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.15)
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in layer.buffers())


@pytest.mark.parametrize("inner_elu", [False, True])
@pytest.mark.parametrize("method", ["dense", "spectral"])
def test_autocast_leaves_float64_as_it_is(method, inner_elu) -> None:
    layer = FactorizedConv(4, 5, attribute_support=(3,), inner_elu=inner_elu, method=method).double().eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    for one in (layer, fold_layer(layer, (8,))):
        with torch.no_grad():
            exact = one(x)
            with torch.autocast("cpu", torch.bfloat16):
                torch.testing.assert_close(one(x), exact, rtol=0, atol=0)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"expected torch.float32.*got.*float64"),
    ):
        layer.float()(x)


@pytest.mark.parametrize("inner_elu", [False, True])
def test_the_default_device_need_not_be_that_of_the_input(inner_elu) -> None:
    layer = FactorizedConv(4, 5, attribute_support=(5,), inner_elu=inner_elu)
    x = torch.randn(2, 10 + 2 * inner_elu, 6, 6)  # sizes of which no other test keeps constants
    with torch.device("meta"):
        y = layer(x)
    assert y.device.type == "cpu"
    torch.testing.assert_close(layer(x), y, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # these two of inductor's own
@pytest.mark.filterwarnings("ignore:.*torch._prims_common.check.*:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_in_training_and_evaluation(kind, backend) -> None:
    layer, x = layer_of(kind)
    twin = copy.deepcopy(layer)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for training in (True, False):
        layer.train(training)
        twin.train(training)
        layer.zero_grad()
        twin.zero_grad()
        y, expected = compiled(x), twin(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        y.square().sum().backward()
        expected.square().sum().backward()
        for (name, parameter), other in zip(layer.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)
        for (name, buffer), other in zip(layer.named_buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(buffer, other, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_per_sample_gradients_by_vmap_equal_a_loop(kind) -> None:
    layer, x = layer_of(kind)
    layer(x)  # so that the running statistics are not the initial ones
    layer.eval()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    buffers = dict(layer.named_buffers())

    def loss(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(layer, (parameters, buffers), (one[None],)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for index, one in enumerate(x):
        alone = grad(loss)(parameters, one)
        for name in parameters:
            torch.testing.assert_close(together[name][index], alone[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_a_functional_call_in_training(kind) -> None:
    layer, x = layer_of(kind)
    twin = copy.deepcopy(layer)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    buffers = {name: b.clone() for name, b in layer.named_buffers()}

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        # Running statistics move in place, so torch.func wants the buffers among the arguments, as for any BatchNorm.
        return functional_call(layer, (parameters, buffers), (x,)).square().sum(), buffers

    gradients, moved = grad(loss, has_aux=True)(parameters, buffers)
    twin(x).square().sum().backward()
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(moved[name], buffer, msg=name)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_ensemble_by_vmap_over_stacked_parameters(kind) -> None:
    _, x = layer_of(kind)
    members = []
    for seed in range(3):
        member, _ = layer_of(kind)
        torch.manual_seed(seed)
        for parameter in member.parameters():
            nn.init.normal_(parameter, std=0.3)
        members.append(member.eval())
    parameters, buffers = torch.func.stack_module_state(members)
    together = vmap(lambda p, b: functional_call(members[0], (p, b), (x,)))(parameters, buffers)
    for y, member in zip(together, members, strict=True):
        torch.testing.assert_close(y, member(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same_and_share_nothing(kind, way) -> None:
    layer, x = layer_of(kind)
    layer(x).square().sum().backward()  # a used layer, with gradients and moved statistics
    if way == "deepcopy":
        twin = copy.deepcopy(layer)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(layer))
    else:
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    torch.testing.assert_close(twin.eval()(x), layer.eval()(x), rtol=0, atol=0)
    before = layer(x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0)


class Symmetric(nn.Module):
    """Spatial filters that equal their mirror image."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


@pytest.mark.parametrize(("kind", "name"), [("plain", "weight"), ("factorized", "h"), ("plus", "h")])
def test_parametrize(kind, name) -> None:
    layer, x = layer_of(kind)
    expected, _ = layer_of(kind)
    with torch.no_grad():
        expected.get_parameter(name).copy_(Symmetric()(expected.get_parameter(name)))
    parametrize.register_parametrization(layer, name, Symmetric())
    torch.testing.assert_close(layer(x), expected(x))
    torch.testing.assert_close(layer(x).flip(-1), layer(x.flip(-1)), rtol=1e-4, atol=1e-4)
    layer(x).square().sum().backward()
    original = layer.get_submodule(f"parametrizations.{name}").get_parameter("original")
    assert original.grad is not None
    torch.testing.assert_close(original.grad, original.grad.flip(-1))
    folded = fold_layer(layer.eval(), (8,))  # type: ignore[arg-type]
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-4, atol=1e-4)


def test_spectral_normalization_of_the_filters() -> None:
    layer, x = layer_of("factorized")
    parametrizations.spectral_norm(layer, "g")
    first = layer(x)
    first.square().sum().backward()
    g = layer.get_parameter("parametrizations.g.original")
    assert g.grad is not None
    assert g.grad.abs().sum() > 0
    for _ in range(20):
        layer(x[:1])
    assert isinstance(layer, FactorizedConv)
    norm = torch.linalg.matrix_norm(layer.g.flatten(1), 2)
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind) -> None:
    layer, x = layer_of(kind)
    twin = copy.deepcopy(layer)
    given, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(layer, given, use_reentrant=False).square().sum().backward()
    twin(expected).square().sum().backward()
    torch.testing.assert_close(given.grad, expected.grad, rtol=0, atol=0)
    for (name, parameter), other in zip(layer.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other[1].grad, rtol=0, atol=0, msg=name)


DDP = """
    import sys
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from hcnn import AttributeBlock
    from hcnn.layers.normalization import synchronize

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)  # the ranks differ until DDP makes them equal
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), AttributeBlock((2, 4, 4), support=(3, 3), rank=5),
        AttributeBlock((2, 4, 4), support=(3, 3), rank=5, inner_elu=True), torch.nn.AdaptiveAvgPool2d(1),
    )
    together = DistributedDataParallel(net)
    synchronize(net, dist.group.WORLD)
    alone = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(9)
    x, target = torch.randn(8, 3, 8, 8), torch.randn(8, 32, 1, 1)
    half = slice(4 * rank, 4 * rank + 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (together(x[half]) - target[half]).square().mean().backward()
        optimizer.step()
    result = {name: value.clone() for name, value in net.state_dict().items()}
    synchronize(net, None)
    net.load_state_dict(alone)  # the whole batch in one process, from the same start
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-4, msg=lambda m: f"{name}: {m}")
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_processes_under_ddp_equal_one(tmp_path) -> None:
    script = tmp_path / "ddp.py"
    script.write_text(textwrap.dedent(DDP))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
