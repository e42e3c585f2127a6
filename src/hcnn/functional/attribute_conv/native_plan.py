"""The arrays that the native convolution per frequency works by: transforms along attributes as small matrices.

A spectrum of a real array is kept as as many real planes as the array has values: of each pair of conjugate
frequencies one, as its real and its imaginary part, and frequencies that are their own conjugates as one number. The
transform along the last attribute comes first and gives half a spectrum; that along the others follows. Each stage is
a set of small matrices between disjoint sets of planes, so its transpose is such a set too.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from hcnn.functional.attribute_conv.spectral import period
from hcnn.functional.axes import Boundary

Block = tuple[np.ndarray, list[int], list[int]]  # matrix (targets, sources), planes of the source and of the target
MOST = 512  # planes that a matrix may read


@dataclass(frozen=True)
class NativePlan:
    """One geometry of the attributes.

    Attributes:
        planes: real planes of a spectrum of x, the product of the periods.
        dofs: real planes of a spectrum of y.
        outputs: positions v' of y.
        aliases: input frequencies that a stride folds onto one output frequency.
        groups: (output frequencies, 3): whether complex, its first plane of x, its first plane of y.
        filters: (planes, taps): w to the planes of its spectrum, which lie as those of x do.
        programs: analysis, synthesis and their transposes, as the kernels read them: integers and floats.
    """

    planes: int
    dofs: int
    outputs: int
    aliases: int
    groups: np.ndarray
    filters: np.ndarray
    programs: tuple[tuple[np.ndarray, np.ndarray], ...]

    @cached_property
    def addresses(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Where groups and the integers and floats of the programs lie; numpy takes its time to say so."""
        ints, floats = zip(*self.programs, strict=True)
        return (
            self.groups.ctypes.data,
            tuple(one.ctypes.data for one in ints),
            tuple(one.ctypes.data for one in floats),
        )


def _grid(sizes: tuple[int, ...]) -> np.ndarray:
    return np.array([*itertools.product(*map(range, sizes))], dtype=float).reshape(math.prod(sizes), len(sizes))


def _half(size: int) -> list[tuple[int, int]]:
    """Rows of half a spectrum: (frequency, 0 for its real and 1 for its imaginary part)."""
    return [(f, part) for f in range(size // 2 + 1) for part in (0, 1) if part == 0 or 0 < 2 * f < size]


def _wave(phase: np.ndarray, part: int) -> np.ndarray:
    """The real or the imaginary part of e^{-i phase}."""
    return -np.sin(phase) if part else np.cos(phase)


@lru_cache(maxsize=64)
def native_plan(
    sizes: tuple[int, ...], support: tuple[int, ...], stride: tuple[int, ...], boundary: Boundary
) -> NativePlan:
    """Build the arrays of one geometry, in float64 until they are packed.

    Args:
        sizes: lengths of the attribute axes of x.
        support: odd filter supports along them.
        stride: strides along them, dividing the sizes.
        boundary: "zeros" or "circular".

    Returns:
        The plan; cached.

    Example:
        >>> plan = native_plan((8, 16), (7, 11), (2, 2), "circular")
        >>> plan.planes, plan.dofs, plan.outputs, len(plan.groups)
        (128, 32, 32, 18)
    """
    periods = tuple(period(n, k, s, boundary) for n, k, s in zip(sizes, support, stride, strict=True))
    folded = tuple(n // s for n, s in zip(periods, stride, strict=True))
    groups, x_planes, y_planes = _frequencies(periods, folded, stride)
    taps = _grid(support) - np.array(support) // 2
    filters = np.stack([_filter_row(plane, taps, periods) for plane in x_planes])
    analysis = _analysis(sizes, periods, x_planes)
    synthesis = _synthesis(tuple(n // s for n, s in zip(sizes, stride, strict=True)), folded, periods, y_planes)
    between = (
        math.prod(sizes[:-1]) * periods[-1],
        math.prod(n // s for n, s in zip(sizes[:-1], stride, strict=False)) * folded[-1],
    )
    return NativePlan(
        planes=len(x_planes),
        dofs=len(y_planes),
        outputs=math.prod(n // s for n, s in zip(sizes, stride, strict=True)),
        aliases=math.prod(stride),
        groups=np.array(groups, dtype=np.int32),
        filters=filters,
        programs=(
            _pack(analysis, between[0]),
            _pack(synthesis, between[1]),
            _pack(_transposed(analysis), between[0]),
            _pack(_transposed(synthesis), between[1]),
        ),
    )


Plane = tuple[tuple[int, ...], str]  # frequency of x, and: re, im, twice-re, twice-im, real


def _frequencies(
    periods: tuple[int, ...], folded: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[list[tuple[int, int, int]], list[Plane], list[tuple[tuple[int, ...], int]]]:
    """The groups, what each plane of x and each plane of y is."""
    groups, x_planes, y_planes = [], [], []
    for omega in sorted(itertools.product(*map(range, folded)), key=lambda w: w[-1]):
        conjugate = tuple(-w % m for w, m in zip(omega, folded, strict=True))
        if (conjugate[-1], conjugate) < (omega[-1], omega):  # of a pair the one whose last frequency is lower
            continue
        aliases = [
            tuple(w + r * m for w, r, m in zip(omega, alias, folded, strict=True))
            for alias in itertools.product(*map(range, stride))
        ]
        complex_ = conjugate != omega
        groups.append((int(complex_), len(x_planes), len(y_planes)))
        if complex_:
            x_planes += [(one, "re") for one in aliases] + [(one, "im") for one in aliases]
            y_planes += [(omega, 0), (omega, 1)]
            continue
        y_planes.append((omega, 0))
        for one in aliases:  # in conjugate pairs themselves, or real
            other = tuple(-w % n for w, n in zip(one, periods, strict=True))
            if other == one:
                x_planes.append((one, "real"))
            elif one < other:
                x_planes += [(one, "twice-re"), (one, "twice-im")]
    return groups, x_planes, y_planes


def _filter_row(plane: Plane, taps: np.ndarray, periods: tuple[int, ...]) -> np.ndarray:
    """What a plane is multiplied with: ŵ(ω) = Σ_t w(t) e^{2πi ω·t/n}; y takes 2 Re(ŵ X̂) of a pair."""
    omega, kind = plane
    phase = 2 * np.pi * (taps @ (np.array(omega) / np.array(periods)))
    return {
        "re": np.cos(phase), "im": np.sin(phase), "real": np.cos(phase),
        "twice-re": 2 * np.cos(phase), "twice-im": -2 * np.sin(phase),
    }[kind]  # fmt: skip


def _analysis(sizes: tuple[int, ...], periods: tuple[int, ...], planes: list[Plane]) -> list[list[Block]]:
    last, n = periods[-1], sizes[-1]
    rows = _half(last)
    first = np.stack([_wave(2 * np.pi * f * np.arange(n) / last, part) for f, part in rows])
    prefix, prefix_periods = _grid(sizes[:-1]), np.array(periods[:-1], dtype=float)
    own = [(first, [v * n + t for t in range(n)], [v * last + r for r in range(last)]) for v in range(len(prefix))]
    second: list[Block] = []
    for f in range(last // 2 + 1):
        matrix, targets = [], []
        paired = 0 < 2 * f < last
        for at, (omega, kind) in enumerate(planes):
            mirrored = 2 * omega[-1] > last  # then its conjugate lies in the half spectrum
            if (last - omega[-1] if mirrored else omega[-1]) != f:
                continue
            sign = -1 if mirrored else 1
            phase = 2 * np.pi * (prefix @ (sign * np.array(omega[:-1], dtype=float) / prefix_periods))
            imaginary = kind.endswith("im")
            of_real = -sign * np.sin(phase) if imaginary else np.cos(phase)
            of_imaginary = sign * np.cos(phase) if imaginary else np.sin(phase)
            matrix.append(np.stack([of_real, of_imaginary], 1).reshape(-1) if paired else of_real)
            targets.append(at)
        parts = [rows.index((f, part)) for part in ((0, 1) if paired else (0,))]
        second.append((np.stack(matrix), [v * last + r for v in range(len(prefix)) for r in parts], targets))
    return [own, second]


def _synthesis(
    outputs: tuple[int, ...],
    folded: tuple[int, ...],
    periods: tuple[int, ...],
    planes: list[tuple[tuple[int, ...], int]],
) -> list[list[Block]]:
    last, n = folded[-1], outputs[-1]
    rows = _half(last)
    prefix, prefix_folded = _grid(outputs[:-1]), np.array(folded[:-1], dtype=float)
    first: list[Block] = []
    for f in range(last // 2 + 1):
        paired = 0 < 2 * f < last
        columns, sources = [], []
        for at, (omega, imaginary) in enumerate(planes):
            if omega[-1] != f:
                continue
            phase = 2 * np.pi * (prefix @ (np.array(omega[:-1], dtype=float) / prefix_folded))
            real = -np.sin(phase) if imaginary else np.cos(phase)
            if paired:
                other = np.cos(phase) if imaginary else np.sin(phase)
                columns.append(np.stack([real, other], 1).reshape(-1))
            else:  # a conjugate pair among these gives twice its real part
                alone = tuple(-w % m for w, m in zip(omega, folded, strict=True)) == omega
                columns.append(real if alone else 2 * real)
            sources.append(at)
        parts = [rows.index((f, part)) for part in ((0, 1) if paired else (0,))]
        first.append((np.stack(columns, 1), sources, [v * last + r for v in range(len(prefix)) for r in parts]))
    matrix = np.stack(
        [
            (2 if 0 < 2 * f < last else 1) * _wave(2 * np.pi * f * np.arange(n) / last, part) / math.prod(periods)
            for f, part in rows
        ],
        1,
    )  # (n, last)
    own = [(matrix, [v * last + r for r in range(last)], [v * n + t for t in range(n)]) for v in range(len(prefix))]
    return [first, own]


def _transposed(stages: list[list[Block]]) -> list[list[Block]]:
    return [[(matrix.T, targets, sources) for matrix, sources, targets in stage] for stage in reversed(stages)]


def _pack(stages: list[list[Block]], between: int) -> tuple[np.ndarray, np.ndarray]:
    """Stages as two flat arrays: see `Program` in native/source/transform.h."""
    blocks, indices, floats = [], [], []
    at = 0
    for matrix, sources, targets in itertools.chain(*stages):
        if len(sources) > MOST:
            raise ValueError(f"the native transform reads at most {MOST} planes at a time; got {len(sources)}")
        blocks.append([len(targets), len(sources), at, len(indices), len(indices) + len(sources)])
        indices += [*sources, *targets]
        floats += [matrix[row : row + 4].T.reshape(-1) for row in range(0, len(targets), 4)]  # (sources, up to 4) each
        at += matrix.size
    header = [len(stages), between, *map(len, stages)]
    ints = np.array([*header, *itertools.chain(*blocks), *indices], dtype=np.int32)
    return ints, np.concatenate(floats).astype(np.float32)
