"""The native kernels against the plain forms in float64: results, gradients, threads, instruction sets, errors."""

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import hcnn
from hcnn.functional import (
    attribute_conv,
    choose_method,
    dense_weight,
    native_available,
    native_description,
    native_disabled,
    native_supports,
)
from hcnn.functional.attribute_conv.native import conv_sizes, native_weight
from hcnn.functional.attribute_conv.native_cost import native_multiply_adds
from hcnn.functional.attribute_conv.native_plan import native_plan
from hcnn.functional.native import library
from hcnn.functional.normalize_elu import dispatch as normalize
from hcnn.functional.normalize_elu import naive
from hcnn.functional.patch_moments import naive as naive_moments
from hcnn.functional.patch_moments import patch_moments
from hcnn.functional.plus_step import naive as naive_plus
from hcnn.functional.plus_step import native_plus_step, native_plus_weight
from hcnn.layers import FactorizedConv
from hcnn.layers.folded import fold_layer

pytestmark = pytest.mark.skipif(not native_available(torch.zeros(1)), reason=native_description())

# attributes: sizes, supports, strides; space: sizes, supports, strides
ATTRIBUTES = [
    ((8, 16), (7, 11), (2, 2)),
    ((4, 8), (5, 7), (2, 2)),
    ((2, 4), (3, 3), (2, 2)),
    ((4, 6), (3, 5), (2, 1)),
    ((6, 6), (3, 3), (1, 3)),
    ((8,), (5,), (2,)),
    ((6,), (9,), (1,)),
    ((2, 4, 6), (3, 3, 5), (2, 2, 2)),
]
SPACE = [
    ((9, 9), (3, 3), (1, 1)),
    ((8, 32), (3, 3), (2, 2)),
    ((40, 17), (3, 3), (1, 1)),  # more than one strip for the larger attributes
    ((20,), (5,), (2,)),
    ((6, 9), (5, 3), (2, 3)),
    ((2, 2), (7, 7), (1, 1)),
    ((1, 1), (3, 3), (1, 1)),
]
SETS = [name for name in ("baseline", "avx2", "avx512") if library.runs(name)]


@pytest.fixture(params=SETS)
def each_set(request) -> Iterator[str]:
    with library.instruction_set(request.param):
        yield request.param


def close(found: Tensor, exact: Tensor, tolerance: float = 3e-6) -> None:
    """Errors are small beside the largest value."""
    assert found.dtype == torch.float32
    error = (found.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-6)
    assert error < tolerance, f"{error:.1e} of {exact.abs().max():.1e}"


def against_double(fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Results and all gradients of a native form are those of a plain form in float64."""
    given = [one.clone().requires_grad_() for one in inputs]
    exact = [one.double().requires_grad_() for one in inputs]
    y, expected = fast(*given), slow(*exact)
    assert y.shape == expected.shape
    close(y, expected)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, given, g)
    for one, other in zip(found, torch.autograd.grad(expected, exact, g.double()), strict=True):
        close(one, other, 1e-5)


def conv_case(v, kv, sv, u, ku, su, boundary, filters):
    torch.manual_seed(0)
    outputs = [n // s for n, s in zip(v, sv, strict=True)]
    inputs = [torch.randn(3, *v, *u), torch.randn(filters, *kv, *ku), torch.randn(*outputs, filters)]

    def run(method):
        return lambda x, w, bias: attribute_conv(
            x, w, bias, spatial=len(u), stride=(*sv, *su), boundary=boundary, method=method
        )

    return run("native"), run("dense"), inputs


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("u", "ku", "su"), SPACE)
@pytest.mark.parametrize(("v", "kv", "sv"), ATTRIBUTES)
def test_convolution(v, kv, sv, u, ku, su, boundary) -> None:
    if boundary == "circular" and any(n % s for n, s in zip(u, su, strict=True)):
        pytest.skip("a stride must divide a period")
    against_double(*conv_case(v, kv, sv, u, ku, su, boundary, 5 if len(v) == 3 else 8))


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("filters", [1, 4, 10])
def test_every_instruction_set(each_set, filters, boundary) -> None:
    against_double(*conv_case((4, 8), (5, 7), (2, 2), (10, 18), (3, 3), (2, 1), boundary, filters))
    against_double(*conv_case((6,), (3,), (1,), (33,), (5,), (1,), boundary, filters))


def plus_case(v, kv, sv, u, ku, su, boundary, filters, rank):
    torch.manual_seed(0)
    inputs = [torch.randn(3, *v, *u), torch.randn(rank, *ku), torch.randn(rank), torch.randn(filters, rank, *kv)]

    def fast(x: Tensor, h: Tensor, shift: Tensor, g: Tensor) -> Tensor:
        spectrum = native_plus_weight(g, v, sv, boundary)
        return native_plus_step(x.flatten(1, len(v)), h, shift, spectrum, v, kv, (*sv, *su), boundary)

    def slow(x: Tensor, h: Tensor, shift: Tensor, g: Tensor) -> Tensor:
        matrix = dense_weight(g, v, sv, boundary, channel_axis=True)
        return naive_plus.plus_step(x.flatten(1, len(v)), h, shift, matrix, su, boundary)

    return fast, slow, inputs


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("u", "ku", "su"), SPACE)
@pytest.mark.parametrize(("v", "kv", "sv"), [*ATTRIBUTES[1:4], *ATTRIBUTES[5:]])
def test_plus_step(v, kv, sv, u, ku, su, boundary) -> None:
    if boundary == "circular" and any(n % s for n, s in zip(u, su, strict=True)):
        pytest.skip("a stride must divide a period")
    against_double(*plus_case(v, kv, sv, u, ku, su, boundary, 5, 6))


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_plus_step_of_every_instruction_set(each_set, boundary) -> None:
    against_double(*plus_case((8, 16), (7, 11), (2, 2), (10, 18), (3, 3), (2, 1), boundary, 8, 5))


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize("shape", [(3, 4, 16, 16), (2, 3, 9, 7), (2, 2, 2, 2), (2, 2, 1, 20), (3, 20, 1), (17, 5)])
def test_patch_moments(each_set, shape, boundary) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * 2 + 3

    def run(moments):
        return lambda x: torch.cat([one.flatten() for one in moments(x)])

    with torch.enable_grad():
        fast = run(lambda x: patch_moments(x, (3, 3), boundary=boundary))
        against_double(fast, run(lambda x: naive_moments.patch_moments(x, (3, 3), boundary)), [x])


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(("shape", "spatial"), [((3, 4, 5, 6), 1), ((3, 2, 4, 8, 6, 11), 2), ((2, 3, 4, 2, 3, 2), 3)])
def test_normalize_elu(each_set, shape, spatial, average) -> None:
    torch.manual_seed(0)
    k = shape[-1 - spatial]
    y, weight, bias = torch.randn(shape) * 2 + 5, torch.rand(k) + 0.5, torch.randn(k)
    fast, slow = (
        lambda y, weight, bias, form=form: form.batch_normalize_elu(y, weight, bias, 1e-5, spatial, average)[0]
        for form in (normalize, naive)
    )
    against_double(fast, slow, [y, weight, bias])
    _, mean, variance = normalize.batch_normalize_elu(y, weight, bias, 1e-5, spatial)
    for found, exact in zip((mean, variance), naive.channel_statistics(y.double(), spatial), strict=True):
        close(found, exact)
    with torch.no_grad():
        close(
            normalize.normalize_elu(y, weight, bias, spatial, average),
            naive.normalize_elu(y.double(), weight.double(), bias.double(), spatial, average),
        )


def test_elu_of_extreme_values() -> None:
    y = torch.tensor([-1e30, -200.0, -88.0, -1e-4, -0.0, 0.0, 1e-4, 50.0, float("inf"), float("-inf"), float("nan")])
    with torch.no_grad():
        found = normalize.normalize_elu(y.reshape(1, 1, -1), torch.ones(1), torch.zeros(1), 1)
    torch.testing.assert_close(found.flatten(), torch.nn.functional.elu(y), rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_a_folded_layer_takes_one_pass(boundary, average) -> None:
    torch.manual_seed(0)
    layer = FactorizedConv(
        8, 9, attribute_support=(3, 5), stride=(2, 2, 1, 1), boundary=boundary, average_oldest=average
    ).double()
    x = torch.randn(2, 4, 8, 9, 5)
    layer(x.double())
    folded = fold_layer(layer.eval(), (4, 8))
    with torch.no_grad():
        close(folded.float()(x), layer(x.double()))


def test_results_do_not_depend_on_the_number_of_threads_nor_on_whose_they_are() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(7, 32, 16, 16), torch.randn(7, 64, 16, 16)
    geometry = [4, 8], [5, 7], [2, 2, 1, 1], False
    spectra = [native_weight(torch.randn(8, 5, 7, *ku), (4, 8), (2, 2), "zeros") for ku in ((3, 3), (3, 1))]
    conv = x, spectra[0], torch.randn(64)
    plus = x, torch.randn(3, 3, 3), torch.randn(3), spectra[1].squeeze(-1).permute(2, 0, 1)
    norm = y.reshape(7, 8, 8, 16, 16), torch.rand(8), torch.randn(8), 1e-5, 2, True
    operators = torch.ops.hcnn
    before, results = torch.get_num_threads(), []
    try:
        own = library.own_threads
        for threads, whose in ((1, nullcontext), (2, nullcontext), (3, nullcontext), (2, own), (3, own)):
            torch.set_num_threads(threads)
            with whose():
                out, mean, variance = operators.native_batch_normalize_elu(*norm)
                moments = operators.native_moments(x, False)
                results.append(
                    [
                        operators.native_conv(*conv, *geometry, False, False),
                        *operators.native_conv_backward(y, *conv, *geometry, False, False),
                        operators.native_plus_step(*plus, *geometry),
                        *operators.native_plus_step_backward(y, *plus, *geometry),
                        *(out, mean, variance),
                        *operators.native_batch_normalize_elu_backward(out, mean, variance, *norm, mean, variance),
                        *moments,
                        operators.native_moments_backward(*moments, x, False, moments[0]),
                    ]
                )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.skipif(not list((Path(torch.__file__).parent / "lib").glob("libgomp*")), reason="PyTorch without libgomp")
def test_pytorchs_own_threads_compute() -> None:
    # A second pool would have to wait for the cores on which PyTorch's threads still spin.
    program = """
import os, torch, hcnn.functional
torch.set_num_threads(2)
torch.randn(1000, 1000).exp()
count = len(os.listdir("/proc/self/task"))
torch.ops.hcnn.native_moments(torch.randn(7, 32, 16, 16), False)
assert len(os.listdir("/proc/self/task")) == count
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_child_of_a_fork_has_threads_of_its_own() -> None:
    x, w = torch.randn(4, 32, 16, 16), torch.randn(4, 3, 3, 3, 3)
    geometry = [4, 8], [3, 3], [1, 1, 1, 1], True, False, False
    spectrum, bias = native_weight(w, (4, 8), (1, 1), "circular"), torch.randn(128)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = torch.ops.hcnn.native_conv(x, spectrum, bias, *geometry)
        if (child := os.fork()) == 0:  # which must not touch PyTorch's own threads
            signal.alarm(20)
            found = torch.ops.hcnn.native_conv(x, spectrum, bias, *geometry).numpy()
            os._exit(0 if (found == expected.numpy()).all() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_system_without_threads_left_computes_on_those_that_there_are() -> None:
    program = """
import resource
import torch
from hcnn.functional.native import library
torch.set_num_threads(1)
x = torch.randn(7, 32, 16, 16)
expected = torch.ops.hcnn.native_moments(x, False)
taken = 1024 * int(open("/proc/self/status").read().split("VmSize:")[1].split()[0])
resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 20),) * 2)  # the stack of a thread does not fit
torch.set_num_threads(4)
with library.own_threads():
    found = torch.ops.hcnn.native_moments(x, False)
assert all(torch.equal(one, other) for one, other in zip(expected, found))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_transforms_of_functions() -> None:
    torch.manual_seed(0)
    layer = FactorizedConv(4, 5, attribute_support=(3,), stride=(2, 1, 1)).eval()
    x = torch.randn(3, 2, 8, 6, 6)
    parameters = {name: one.detach() for name, one in layer.named_parameters()}
    assert layer.chosen_method((8,), 4, native=layer.geometry.native(x[0])) == "native"

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).square().mean()

    each = vmap(grad(loss), (None, 0))(parameters, x)
    with native_disabled():
        expected = vmap(grad(loss), (None, 0))(parameters, x)
    for name in parameters:
        torch.testing.assert_close(each[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("inner_elu", [False, True])
def test_dispatch_modes_see_every_operator(inner_elu, folded) -> None:
    """Kernels take pointers: a mode that records or counts operators would miss what they compute."""
    torch.manual_seed(0)
    model, x = hcnn.create_model("hcnn_digits", inner_elu=inner_elu).eval(), torch.randn(2, 1, 8, 8)
    model = model.fold() if folded else model
    with native_disabled(), FlopCounterMode(display=False) as expected:
        model(x)
    with FlopCounterMode(display=False) as counted:
        assert not native_available(x)
        model(x)
    assert counted.get_total_flops() == expected.get_total_flops() > 1e6
    for kind in ("real", "fake", "symbolic"):
        with torch.no_grad():
            traced = make_fx(model, tracing_mode=kind, _allow_non_fake_inputs=True)(x)
            torch.testing.assert_close(traced(2 * x), model(2 * x))


@pytest.mark.parametrize("inner_elu", [False, True])
def test_compilers_get_the_operators_of_the_kernels(inner_elu) -> None:
    layer = FactorizedConv(4, 5, attribute_support=(3,), inner_elu=inner_elu, method="native").eval()
    x = torch.randn(2, 8, 6, 6)
    program = torch.export.export(layer, (x,))
    assert any("hcnn.native" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


def test_what_does_not_fit_is_explained() -> None:
    w = torch.randn(4, 3, 3, 3)
    with pytest.raises(ValueError, match=r"native method takes float32.*got torch.float64 on cpu"):
        attribute_conv(torch.randn(1, 4, 5, 5).double(), w.double(), method="native")
    with native_disabled(), pytest.raises(ValueError, match="native method takes float32"):
        attribute_conv(torch.randn(1, 4, 5, 5), w, method="native")
    with FlopCounterMode(display=False), pytest.raises(ValueError, match="outside of autocast and dispatch modes"):
        attribute_conv(torch.randn(1, 4, 5, 5), w, method="native")
    plus = FactorizedConv(4, 5, attribute_support=(3,), inner_elu=True, method="native").double()
    with pytest.raises(ValueError, match=r"plus_step: the native method takes float32.*got torch.float64 on cpu"):
        plus(torch.randn(1, 4, 5, 5).double())
    geometry = [4], [3], [1, 1, 1], False
    spectrum, bias = torch.zeros(5, 4, 3, 3), torch.zeros(16)
    with pytest.raises(ValueError, match=r"expected float32 x \(b, 4, u1, u2\); got torch.float32 \(1, 5, 5, 5\)"):
        torch.ops.hcnn.native_conv(torch.zeros(1, 5, 5, 5), spectrum, bias, *geometry, False, False)
    with pytest.raises(ValueError, match="expected a gradient of shape"):
        torch.ops.hcnn.native_conv_backward(
            torch.zeros(1, 15, 5, 5), torch.zeros(1, 4, 5, 5), spectrum, bias, *geometry, False, False
        )
    with pytest.raises(ValueError, match="no native kernels for 'vax'"), library.instruction_set("vax"):
        pass


def test_the_arrays_of_a_geometry_live_as_long_as_what_points_to_them() -> None:
    told = conv_sizes(torch.zeros(1, 4, 5, 5), (3, 3), 4, [4], [3], [1, 1, 1], False)
    plan = weakref.ref(native_plan((4,), (3,), (1,), "zeros"))
    native_plan.cache_clear()  # as when many other geometries come meanwhile
    assert plan() is not None
    del told
    assert plan() is None


def test_rows_that_the_kernels_cannot_count_are_refused() -> None:
    one = torch.zeros(1, 1, 1, 1)
    conv_sizes(one.expand(1, 128, 1, 2**22), (1, 3), 16, [8, 16], [7, 11], [2, 2, 1, 1], False)
    with pytest.raises(ValueError, match=r"count in 32 bits; got \(1, 128, 1, 16777216\); method='dense' takes them"):
        conv_sizes(one.expand(1, 128, 1, 2**24), (1, 3), 16, [8, 16], [7, 11], [2, 2, 1, 1], False)
    assert native_supports((8,), (3,), (1,), (255,))
    assert not native_supports((8,), (3,), (1,), (257,))


@pytest.mark.parametrize("own", [False, True])
def test_too_little_memory_is_an_error_of_python(own) -> None:
    one, nine, more = torch.zeros(1), torch.zeros(9), torch.zeros(81)
    sums = library.Normalize(images=2**20, oldest=1, others=1, filters=2**24, space=1, eps=1e-5)  # 2**48 bytes
    maps = library.Moments(images=4, maps=1, height=2**30, width=2**30, wrap=0)  # 2**62 bytes for each thread
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with library.own_threads() if own else nullcontext():
            with pytest.raises(MemoryError, match="hcnn_normalize: not enough memory"):
                library.call("hcnn_normalize", sums, *[one] * 6)
            with pytest.raises(MemoryError, match="hcnn_moments_backward: not enough memory"):
                library.call("hcnn_moments_backward", maps, one, nine, nine, more, one)
            x = torch.randn(4, 2, 9, 9)  # the threads serve the next call
            mean, covariance = naive_moments.patch_moments(x.double(), (3, 3), "zeros")
            expected = mean.float(), covariance.float()
            torch.testing.assert_close(patch_moments(x, (3, 3)), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_a_library_that_cannot_serve_says_why(tmp_path, monkeypatch) -> None:
    assert library.load(tmp_path / "none.so", None) == (None, library.NOT_COMPILED)
    (tmp_path / "kernels.so").write_text("no library")
    assert "cannot be loaded" in library.load(tmp_path / "kernels.so", None)[1]
    assert "HCNN_NATIVE_ISA" in library.load(library.path(), "vax")[1]
    monkeypatch.setattr(library.build, "digest", lambda: "other")
    assert "compiled from other source" in library.load(library.path(), None)[1]
    monkeypatch.setenv("HCNN_NATIVE", "0")
    assert "HCNN_NATIVE=0" in library.load(library.path(), None)[1]


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
@pytest.mark.parametrize(("v", "kv", "sv"), ATTRIBUTES)
def test_work_is_counted(v, kv, sv, boundary) -> None:
    plan = native_plan(v, kv, sv, boundary)
    products = sum(3 if complex_ else 1 for complex_, _, _ in plan.groups.tolist()) * plan.aliases * 6 * 9
    transforms = plan.programs[0][1].size + 6 * plan.programs[1][1].size  # numbers of their matrices
    assert native_multiply_adds(v, kv, sv, boundary, 6, 9) == products + transforms


def test_the_native_form_is_chosen_where_it_takes_less_work() -> None:
    for boundary in ("zeros", "circular"):
        assert choose_method((4, 8), (5, 7), (2, 2), 8, 9, boundary, "cpu", native=True) == "native"
    assert choose_method((2,), (3,), (1,), 2, 9, "zeros", "cpu", native=True) == "dense"
