"""An integer network as one C99 file: int8 tables, loops over lines and their taps, static buffers, no allocation.

The weights lie there once, as filters; the block-Toeplitz matrix of a layer is never formed. What the older attributes
join is a list of runs (neighbouring lines that meet neighbouring taps), and along a line each output reads its own
window, so that products with a structural zero are not computed, but for pairs of which one is inside.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from hcnn.export.c_source import MARK, CSource, c_array, main_program, whole_file
from hcnn.export.escape import c_identifier
from hcnn.export.integer.arena import Use, place
from hcnn.export.integer.chain import Convolution
from hcnn.export.integer.quantize import ELU_STEP, IntegerConvolution, IntegerNetwork, Rescale, elu_table

_ACTIVATIONS = {"none": 0, "relu": 1, "elu": 2}


@dataclass(frozen=True)
class _Lines:
    """Where the values of a line are kept in the ring, and which of them the taps of each output read in pairs.

    Attributes:
        lead: values kept before the first of the line.
        pitch: values kept of a line.
        padded: taps along a line, with zeros to a multiple of four.
        reads: for each pair of taps and each output, the place in the line's room of the pair of values; -1 for none.
    """

    lead: int
    pitch: int
    padded: int
    reads: tuple[tuple[int, ...], ...]


def _lines(layer: Convolution) -> _Lines:
    padded = -(-layer.weight.shape[2] // 4) * 4
    if _channels(layer):
        return _Lines(0, padded, padded, ())
    at = layer.attribute_step * np.arange(layer.outputs) - layer.lead
    starts = [at + tap for tap in range(0, padded, 2)]  # of each pair, per output
    inside = [
        [tap < layer.weight.shape[2] and (layer.circular or (-1 <= s < layer.length)) for s in one]
        for tap, one in zip(range(0, padded, 2), starts, strict=True)
    ]
    read = [int(s) for one, ok in zip(starts, inside, strict=True) for s, reads in zip(one, ok, strict=True) if reads]
    low, high = min(*read, 0), max(max(read) + 2, layer.length)
    low -= (low - read[0]) % 2  # so that pairs begin at even places where the step allows it
    pitch = high - low + (high - low) % 2
    reads = tuple(
        tuple(int(s) - low if ok else -1 for s, ok in zip(one, oks, strict=True))
        for one, oks in zip(starts, inside, strict=True)
    )
    return _Lines(-low, pitch, padded, reads)


def _channels(layer: Convolution) -> bool:
    """Whether the values of a line are channels: a single output sees all of them."""
    return layer.index.shape == (1, 1) and layer.outputs == 1 and layer.lead == 0 and not layer.circular


def _sum_function(name: str, lines: _Lines, layer: Convolution) -> str:
    """The sum of products of one filter at one pixel, for all outputs along a line and one run of lines.

    What belongs to one line, at all columns of the filter, is written out; loops go over the lines and the rows.
    """
    pixel = layer.index.shape[1] * lines.pitch
    columns, taps = layer.support[1], layer.weight.shape[1]
    body = []
    for column in range(columns):
        loaded = {-1}
        for pair, places in enumerate(lines.reads):
            if pair % 2 == 0:
                new = "" if column or pair else "net_four "
                body.append(f"{new}w = net_weights(v + {column * lines.padded + 2 * pair});")
            if all(at < 0 for at in places):
                continue
            new = "" if column else "net_two "
            body.extend(f"{new}x{at} = net_pair(x + {column * pixel + at});" for at in sorted({*places} - loaded))
            loaded |= {*places}
            two = "net_first(w)" if pair % 2 == 0 else "net_second(w)"
            body.extend(f"s{n} = NET_DUAL(x{at}, {two}, s{n});" for n, at in enumerate(places) if at >= 0)
    inner = "\n".join(f"            {line}" for line in body)
    start = ", ".join(f"s{n} = sums[{n}]" for n in range(layer.outputs))
    end = " ".join(f"sums[{n}] = s{n};" for n in range(layer.outputs))
    row = taps * columns * lines.padded
    return f"""\
static void {name}(int32_t *sums, const int16_t *const *rows, const int8_t *w, const net_run_t *run)
{{
    int32_t {start};
    w += run->tap * {columns * lines.padded};
    for (int dy = 0; dy < {layer.support[0]}; dy++, w += {row}) {{
        if (!rows[dy]) continue;
        const int16_t *x = rows[dy] + run->line * {lines.pitch};
        const int16_t *end = x + run->count * {lines.pitch};
        for (const int8_t *v = w; x != end; x += {lines.pitch}, v += {columns * lines.padded}) {{
{inner}
        }}
    }}
    {end}
}}
"""


def _runs(index: NDArray[np.int64]) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Runs (line, tap, count) of each older output, and where those of each end."""
    runs: list[tuple[int, int, int]] = []
    ends: list[int] = []
    for row in index:
        first = len(runs)
        for line in np.flatnonzero(row >= 0):
            tap = int(row[line])
            if len(runs) > first and runs[-1][0] + runs[-1][2] == line and runs[-1][1] + runs[-1][2] == tap:
                runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
            else:
                runs.append((int(line), tap, 1))
        ends.append(len(runs))
    return runs, ends


def _stored(layer: IntegerConvolution, padded: int) -> NDArray[np.int8]:
    """Weights in the order of the file: (filters, height, older taps, width, taps), fours as 0 2 1 3.

    Of channels, two filters lie side by side, four weights of each in turn.
    """
    w = layer.weight.transpose(0, 3, 1, 4, 2)
    full = np.zeros((len(w) + len(w) % 2, *w.shape[1:4], padded), np.int8)
    full[: len(w), ..., : w.shape[4]] = w
    channels = _channels(layer.convolution)
    full = full.reshape(len(full) // 2, 2, -1, 4).swapaxes(1, 2) if channels else full[: len(w)]
    return full.reshape(-1, 4)[:, [0, 2, 1, 3]].ravel()


def integer_source(network: IntegerNetwork, prefix: str = "hcnn") -> CSource:
    """Write an integer network as C.

    Args:
        network: a quantized network.
        prefix: the start of every name that the file defines.

    Returns:
        The source, its header and what it needs.

    Raises:
        ValueError: for a prefix that no C name can begin with, or sizes beyond 16 bits.

    """
    if prefix != c_identifier(prefix):
        raise ValueError(
            f"export c: expected a prefix of letters, digits and single underscores that begins with a letter, such as "
            f"{c_identifier(prefix)!r}; got {prefix!r}"
        )
    chain = network.chain
    extents = [chain.size]
    for one in chain.convolutions:
        height, width = extents[one.source]
        extents.append(((height - 1) // one.step[0] + 1, (width - 1) // one.step[1] + 1))
    offsets, arena = place(_uses(chain.convolutions, extents))
    zeros = [0, *(one.zero for one in network.convolutions)]
    declared: list[str] = []
    rows: list[str] = []
    functions: dict[str, str] = {}
    known: dict[str, str] = {}
    table_bytes = multiply_adds = ring = 0

    def declare(kind: str, width: int, name: str, values: Sequence[str]) -> None:
        nonlocal table_bytes
        declared.append(c_array(kind, name, values))
        table_bytes += width * len(values)

    def table(kind: str, width: int, name: str, values: Sequence[str]) -> str:
        """The name of a table with these values; equal tables of layers are one."""
        text = c_array(kind, "", values)
        if text not in known:
            known[text] = name
            declare(kind, width, name, values)
        return known[text]

    for number, layer in enumerate(network.convolutions):
        geometry, lines = layer.convolution, _lines(layer.convolution)
        (height, width), (tall, wide) = extents[geometry.source], extents[number + 1]
        ring = max(
            ring, geometry.support[0] * (width + 2 * (geometry.support[1] // 2)) * geometry.index.shape[1] * lines.pitch
        )
        function = "0"
        if not _channels(geometry):
            text = _sum_function("NAME", lines, geometry)
            function = functions.setdefault(text, f"net_sum{len(functions)}")
        same = bool((layer.bias == layer.bias[0]).all())
        runs, ends = _runs(geometry.index)
        names = [
            table("int32_t", 4, f"net_m{number}", _texts(layer.inner.multiplier)),
            table("int8_t", 1, f"net_w{number}", _texts(_stored(layer, lines.padded))),
            table("int32_t", 4, f"net_b{number}", _texts(layer.bias[0] if same else layer.bias)),
            table("net_run_t", 6, f"net_runs{number}", [f"{{{line}, {tap}, {count}}}" for line, tap, count in runs]),
            table("uint16_t", 2, f"net_ends{number}", _texts(ends)),
        ]
        residual = geometry.residual
        numbers = [
            height, width, geometry.index.shape[1], geometry.length, tall, wide, *geometry.step, *geometry.support,
            lines.lead, lines.pitch, len(geometry.weight), geometry.outputs, len(geometry.index) // geometry.averaged,
            geometry.averaged, geometry.weight.shape[1], lines.padded, _ACTIVATIONS[geometry.activation],
            0 if same else len(geometry.weight), layer.zero, zeros[geometry.source],
            0 if residual is None else zeros[residual], offsets[number],
            offsets[geometry.source - 1] if geometry.source else -1, -1 if residual is None else offsets[residual - 1],
        ]  # fmt: skip
        if max(numbers[:-3]) >= 2**15:  # all but the offsets
            raise ValueError(
                f"export c --int8: expected sizes of at most 32,767, which fit in 16 bits; convolution {number + 1} "
                f"has one of {max(numbers[:-3]):,}"
            )
        scales = [_rescale(layer.inner, 0), _rescale(layer.residual), _rescale(layer.outer)]
        rows.append(
            f"    {{{', '.join(map(str, numbers))}, {', '.join(scales)},\n     {', '.join(names)}, {function}}},"
        )
        table_bytes += 144
        multiply_adds += geometry.multiply_adds(tall * wide)
    declare("int16_t", 2, "net_elu", _texts(elu_table()))
    declare("int16_t", 2, "net_pixel_zero", _texts(network.pixel_zero))
    if network.readout is not None:
        declare("int8_t", 1, "net_readout", _texts(network.readout))
        declare("int32_t", 4, "net_readout_bias", _texts(network.readout_bias))
    constants = {
        "CHANNELS": len(network.pixel_zero), "HEIGHT": chain.size[0], "WIDTH": chain.size[1],
        "CLASSES": len(network.readout_bias), "LAYERS": len(network.convolutions), "ARENA": arena, "RING": ring,
        "NEWEST": chain.newest, "LINEAR": int(network.readout is not None), "SIGN": network.sign,
        "PERIODIC": int(any(one.circular for one in chain.convolutions)), "ELU_STEP": ELU_STEP,
        "ELU_HALF": 1 << ELU_STEP - 1, "MAX_OUTPUTS": max(one.outputs for one in chain.convolutions),
        "MAX_SUPPORT": max(one.support[0] for one in chain.convolutions),
    }  # fmt: skip
    buffer_bytes = arena + 2 * ring
    about = _ABOUT.format(
        tables=table_bytes, buffers=buffer_bytes, multiply_adds=multiply_adds, unit=f"{network.unit:.6g}", **constants
    )
    macros = {name: f"#define NET_{name} {value}\n" for name, value in constants.items()}
    interface = "".join(macros.pop(name) for name in ("CHANNELS", "HEIGHT", "WIDTH", "CLASSES"))
    interface += f"#define NET_LOGIT_UNIT {network.unit:.9e}f\n{_INTERFACE}"
    runtime = (files("hcnn.export.integer") / "runtime.c").read_text(encoding="utf-8")
    head, body = runtime.split("/* TABLES */\n")
    written = [text.replace("NAME", name, 1) for text, name in functions.items()]
    start = [
        about,
        "#include <stdint.h>\n#include <string.h>\n\n",
        interface,
        "\n",
        *macros.values(),
        "\n",
        head,
        *written,
    ]
    body += main_program("int32_t", "%ld", "long")
    text = whole_file(prefix, chain.preprocessing.classes, "".join(start), declared, rows, body)
    guard = f"{about}#ifndef HCNN_NET_H\n#define HCNN_NET_H\n\n#include <stdint.h>\n\n{interface}\n#endif\n"
    return CSource(text, MARK.sub(prefix, guard), table_bytes, buffer_bytes, multiply_adds)


def _uses(layers: Iterable[Convolution], extents: Sequence[tuple[int, int]]) -> list[Use]:
    uses = []
    for number, one in enumerate(layers, start=1):
        (height, _), (rows, columns) = extents[one.source], extents[number]
        reach = one.support[0] - one.support[0] // 2
        read = [0 if one.circular else min(height, row * one.step[0] + reach) for row in range(rows)]
        uses.append(Use(one.source, one.residual, rows, columns * one.maps, tuple(read)))
    return uses


def _rescale(rescale: Rescale | None, multiplier: int | None = None) -> str:
    if rescale is None:
        return "{0, 0, 0, 0}"
    factor = int(rescale.multiplier[0]) if multiplier is None else multiplier
    return f"{{{rescale.left}, {factor}, {1 << rescale.right - 1}, {rescale.right}}}"


def _texts(values: Iterable[int] | NDArray[np.generic]) -> list[str]:
    return [str(int(one)) for one in np.asarray(values).ravel()]


_ABOUT = """\
/* A network in 8-bit integers, written by hcnn. C99 and C++, no allocation, no floating point; of the C library only
 * memcpy and memset.
 *
 *     int net_classify(const unsigned char *bytes, int32_t *logits);   returns the class, an index of net_classes
 *
 * Images are {CHANNELS} x {HEIGHT} x {WIDTH} bytes (channels, rows, columns); there are {CLASSES} integer logits, in
 * units of NET_LOGIT_UNIT = {unit}. The buffers are static: calls of one network must not overlap.
 * Constants: {tables} bytes. Static buffers: {buffers} bytes. Multiply-adds of one image: {multiply_adds}.
 *
 * cc -std=c99 -O2 -c FILE.c. On Arm processors with DSP instructions one instruction computes two products, with equal
 * results; NET_PLAIN_C switches that off. With -DHCNN_MAIN it is a program: raw images in, logits and classes out.
 */
"""

_INTERFACE = """\

#ifdef __cplusplus
extern "C" {
#endif
extern const char *const net_classes[NET_CLASSES];
int net_classify(const unsigned char *bytes, int32_t *logits);
#ifdef __cplusplus
}
#endif
"""
