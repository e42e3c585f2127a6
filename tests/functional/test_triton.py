"""The kernels without a GPU: references and fallbacks, Triton's interpreter in another process, compilation."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hcnn import functional
from hcnn.functional import backend
from hcnn.functional.normalize_elu import batch_normalize_elu
from hcnn.functional.patch_moments import naive as naive_moments
from hcnn.functional.plus_step import dispatch, plus_step
from hcnn.functional.plus_step import naive as naive_plus


def test_kernels_equal_their_twins_in_the_interpreter() -> None:
    pytest.importorskip("triton", "3.7")  # the interpreter of 3.6 does not run with numpy 2.4
    checks = Path(__file__).with_name("triton_checks.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", str(checks)]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1", "HCNN_NATIVE": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\b[1-9]\d passed", done.stdout), done.stdout


def test_the_package_works_without_triton() -> None:
    code = """
        import sys
        sys.modules["triton"] = None  # as if it were not installed
        import torch
        from hcnn import HierarchicalCNN, HierarchicalCNNConfig
        from hcnn.functional import backend
        from hcnn.functional.plus_step import plus_step
        assert not backend.available(torch.zeros(1))
        model = HierarchicalCNN(HierarchicalCNNConfig(width=4, rank=2, depth=4, downsample=(), inner_elu=True))
        model(torch.randn(2, 3, 4, 4)).sum().backward()
        plus_step(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 3), torch.zeros(2), torch.randn(4, 6))
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-W", "error", "-c", lines], check=True)


@pytest.mark.parametrize("boundary", ["zeros", "circular"])
def test_twin_of_the_moments_equals_the_row_products(boundary) -> None:
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64) + 2
    for actual, expected in zip(
        naive_moments.patch_moments(x, (3, 3), boundary),
        functional.patch_moments(x, (3, 3), boundary=boundary),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", [False, True])
def test_twin_of_the_normalization_equals_batch_norm(average) -> None:
    y = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64) * 3 + 1  # b v k u1 u2
    norm = torch.nn.BatchNorm2d(4, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    expected = torch.nn.functional.elu(norm(y.flatten(0, 1))).reshape(y.shape)
    out, mean, variance = batch_normalize_elu(y, norm.weight, norm.bias, norm.eps, 2, average)
    torch.testing.assert_close(out, expected.mean(1) if average else expected)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    count = y.numel() // 4
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance * count / (count - 1))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_fallback_of_the_inner_step_in_parts_keeps_no_intermediate(stride) -> None:
    x, h = torch.randn(3, 3, 6, 4, dtype=torch.float64), torch.randn(8, 3, 3, dtype=torch.float64)
    shift, matrix = torch.randn(8, dtype=torch.float64), torch.randn(7, 24, dtype=torch.float64)
    given = [one.requires_grad_() for one in (x, h, shift, matrix)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = dispatch._in_parts(naive_plus.plus_step, images=2)(*given, stride, "zeros")
    assert max(kept) <= x.numel()  # the intermediate of two images has 2 · 3 · 8 · u'
    expected = naive_plus.plus_step(*given, stride=stride, boundary="zeros")
    torch.testing.assert_close(y, expected)
    for actual, wanted in zip(
        torch.autograd.grad(y.square().sum(), given),
        torch.autograd.grad(expected.square().sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)


def test_fallback_follows_autocast() -> None:
    given = (torch.randn(1, 2, 4, 4), torch.randn(3, 3, 3), torch.randn(3), torch.randn(5, 6))
    with torch.autocast("cpu", torch.bfloat16):
        y = plus_step(*given)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), plus_step(*given), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("outputs", "taken"), [(8, True), (64, False)])
def test_the_kernel_takes_no_step_whose_result_it_cannot_count(outputs, taken, monkeypatch) -> None:
    monkeypatch.setattr(backend, "_TRITON", True)
    monkeypatch.setattr(backend, "_INTERPRETED", True)
    calls: list[int] = []
    monkeypatch.setattr(dispatch.triton_op, "plus_step", lambda x, *_: calls.append(1) or x)
    with torch.device("meta"):
        x = torch.empty(16, 2, 2048, 2048)
        plus_step(x, torch.empty(3, 3, 3), torch.empty(3), torch.empty(outputs, 6), (1, 1))
        assert bool(calls) == taken
        plus_step(x, torch.empty(3, 3, 3), torch.empty(3), torch.empty(outputs, 6), (2, 2))
    assert len(calls) == taken + 1


# ------------------------------------------------------------------ compilation for compute capability 9.0

SIZES = ("M", "SPLITS", "total", "outer", "parts")
MAPS: dict[str, Any] = {"H": 32, "W": 32, "INNER": 1, "CIRCULAR": False}
GEOMETRY: dict[str, Any] = {"H": 32, "W": 32, "HO": 32, "WO": 32, "SH": 1, "SW": 1, "CIRCULAR": False}
BFLOAT16 = ("x_ptr", "y_ptr", "out_ptr", "grad_ptr", "dy_ptr", "dx_ptr", "dp_ptr", "h_ptr", "ht_ptr", "g_ptr")


def compiled(kernel: Any, constants: dict[str, Any], warps: int = 4, wide: Sequence[str] = ()) -> tuple[str, str, int]:
    """PTX, what its assembler reports, and bytes of shared memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in SIZES:
            signature[name] = "i32"
        elif name == "eps":
            signature[name] = "fp32"
        else:
            signature[name] = "*bf16" if name in BFLOAT16 and name not in wide else "*fp32"
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    ptx = result.asm["ptx"]
    assembler = next(Path(str(triton.__file__)).parent.rglob("bin/ptxas"))
    command = [assembler, "-v", "-arch=sm_90a", "-o", os.devnull, "-"]
    report = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True).stderr
    return ptx, report, result.metadata.shared


def kernel_cases() -> list[Any]:
    pytest.importorskip("triton")
    import triton.language as tl

    from hcnn.functional.attribute_conv import triton_kernels as triton_dense
    from hcnn.functional.normalize_elu import triton_kernels as triton_normalize
    from hcnn.functional.patch_moments import triton_kernels as triton_moments
    from hcnn.functional.plus_step import triton_kernels as triton_plus

    step = {**GEOMETRY, "QP": 32, "PRECISION": "tf32"}
    moments, last = {"WIDE": tl.float32}, {"INNER": 128, "CIRCULAR": True}
    rows = {"K": 16, "INNER": 1024, "WIDE": tl.float32}
    filters = {"K": 16, "D": 9, "N1": 8, "N2": 16, "K1": 7, "K2": 11, "S1": 2, "S2": 2, "CIRCULAR": True}
    filters["WIDE"] = tl.float32
    row = {**rows, "V1": 4, "R": 8 * 16 * 1024}

    def product(tiles: tuple[int, int, int, int], name: str) -> dict[str, Any]:
        return {**step, "V": 128, "OUT": 512, "BM": tiles[0], name: tiles[1], "VB": tiles[2] // 32}

    half = {"H": 16, "W": 16, "HO": 8, "WO": 8, "SH": 2, "SW": 2, "CIRCULAR": True}
    return [
        (triton_plus._forward, product(triton_plus.FORWARD, "BN"), triton_plus.FORWARD[3], ()),
        (triton_plus._forward, product(triton_plus.FORWARD, "BN") | half, triton_plus.FORWARD[3], ()),
        (triton_plus._inputs, product(triton_plus.INPUTS, "BO") | half, triton_plus.INPUTS[3], ()),
        (triton_plus._matrix, product(triton_plus.MATRIX, "BO") | half, triton_plus.MATRIX[3], ()),
        (triton_plus._inputs, product(triton_plus.INPUTS, "BO"), triton_plus.INPUTS[3], ()),
        (triton_plus._matrix, product(triton_plus.MATRIX, "BO"), triton_plus.MATRIX[3], ()),
        (triton_plus._collect, {**GEOMETRY, "BLOCK": 512}, 4, ()),
        (triton_moments._products, {**MAPS, **moments, "BLOCK": triton_moments._POSITIONS}, 2, ()),
        (triton_moments._products, {**MAPS, **moments, **last, "BLOCK": triton_moments._POSITIONS}, 2, ()),
        (triton_moments._finish, moments, 1, ()),
        (triton_moments._filters, moments, 1, ("out_ptr", "grad_ptr")),
        (triton_moments._gradient, {**MAPS, **moments, "BLOCK": 256}, 4, ()),
        (triton_dense._place, {**filters, "BLOCK": triton_dense._ELEMENTS}, 4, ()),
        (triton_dense._collect, {**filters, "BLOCK": triton_dense._WEIGHTS}, 4, ("out_ptr",)),
        (triton_normalize._forward, {**row, "BLOCK": 1024}, 4, ()),
        (triton_normalize._backward, {**row, "BLOCK": 1024}, 4, ()),
        (triton_normalize._reduce, {**row, "BLOCK_N": 1024, "BLOCK_K": 1}, 4, ()),
        (triton_normalize._reduce, {**row, "INNER": 1, "R": 128, "BLOCK_N": 128, "BLOCK_K": 16}, 4, ()),
        (triton_normalize._statistics, {**rows, "BLOCK_N": 1024, "BLOCK_K": 1}, 4, ()),
        (triton_normalize._merge, {"K": 16, "AFFINE": True, "PARTS": 1024}, 4, ("out_ptr",)),
        (triton_normalize._coefficients, {"K": 16, "PARTS": 1024}, 4, ("out_ptr",)),
    ]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
def test_kernels_compile_for_a_gpu_and_hardly_spill_registers(tmp_path, monkeypatch) -> None:
    """At the sizes of K = 16, as far as assembly; products on bfloat16 use the tensor cores."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, constants, warps, wide in kernel_cases():
        ptx, report, shared = compiled(kernel, constants, warps, wide)
        name = f"{kernel.fn.__module__}.{kernel.fn.__name__}"
        spills = re.search(r"(\d+) bytes spill stores", report)
        assert spills, (name, report)
        assert int(spills[1]) <= 64, (name, report)
        assert shared <= 227 * 1024, name
        if "BM" in constants:
            assert "wgmma.mma_async" in ptx, name
