"""One C99 file for one image size: the filters as tables, loops over their taps, static buffers, no allocation."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.escape import c_identifier, c_string
from hcnn.export.plain_network import PlainLayer, PlainNetwork, check_periodic


@dataclass(frozen=True)
class CSource:
    """A network as C source code.

    Attributes:
        text: the source file.
        header: the header that declares its functions.
        table_bytes: size of the constants: weights, biases and tables of taps.
        buffer_bytes: size of the static buffers.
        multiply_adds: multiply-adds for one image.
    """

    text: str
    header: str
    table_bytes: int
    buffer_bytes: int
    multiply_adds: int


def c_source(network: PlainNetwork, preprocessing: Preprocessing, size: Sequence[int], prefix: str = "hcnn") -> CSource:
    """Write a plain network as C.

    Args:
        network: a plain network that includes the standardization.
        preprocessing: its class names are included.
        size: spatial size of the images.
        prefix: the start of every name that the file defines, so that any number of networks can be linked together.

    Returns:
        The source, its header and what it needs.

    Raises:
        ValueError: for a prefix that no C name can begin with, three spatial axes, a network without its
            standardization, or a periodic image smaller than half a filter.

    """
    if prefix != c_identifier(prefix):
        raise ValueError(
            f"export c: expected a prefix of letters, digits and single underscores that begins with a letter, such as "
            f"{c_identifier(prefix)!r}; got {prefix!r}"
        )
    if network.config.spatial_axes not in (1, 2) or len(size) != network.config.spatial_axes:
        raise ValueError(
            f"export c: expected one or two spatial axes with a size each; the network has "
            f"{network.config.spatial_axes}, the size is {tuple(size)}"
        )
    if not network.standardizes:
        raise ValueError("export c: expected a network that includes its standardization; got one without")
    layers = [layer for layer in network.layers if isinstance(layer, PlainLayer)]
    plane = (1, *size) if len(size) == 1 else tuple(size)
    tables: dict[bytes, str] = {}
    declared: list[str] = []
    rows: list[str] = []
    buffers = {0: 0, 1: 0}
    extent, input_maps, multiply_adds, bytes_total, inner, columns = plane, network.config.channels, 0, 0, 1, 1
    for j, layer in enumerate(layers):
        support, stride = _plane(layer.support), _plane(layer.stride)
        rank = len(layer.h) if layer.plus else 0
        border = tuple(k // 2 for k in support)
        if layer.circular:
            check_periodic(extent, support)
        reached = tuple((n - 1) // s + 1 for n, s in zip(extent, stride, strict=True))
        outputs, inputs = layer.taps.index.shape
        filters, taps, channels = layer.taps.weight.shape[:3]
        following = layers[j + 1] if j + 1 < len(layers) else None
        averaged = following.averaged if following else outputs
        next_border = tuple(k // 2 for k in _plane(following.support)) if following else (0, 0)
        pairs, ends = _pairs(layer.taps.index)
        place = math.prod(reached)
        if rank:
            multiply_adds += place * rank * (inputs * math.prod(support) + len(pairs) * filters)
            inner = max(inner, inputs * rank * reached[1])
        else:
            multiply_adds += place * len(pairs) * channels * filters * math.prod(support)
        columns = max(columns, reached[1])
        key = ends.tobytes() + pairs.tobytes()
        if key not in tables:
            tables[key] = f"{len(tables)}"
            flat = ", ".join(f"{{{a}, {t}}}" for a, t in pairs.tolist())
            declared.append(f"static const net_pair_t net_pairs{tables[key]}[] = {{{flat}}};")
            declared.append(c_array("int", f"net_ends{tables[key]}", map(str, ends.tolist())))
            bytes_total += 4 * len(pairs) + 4 * len(ends)
        bias = layer.bias.reshape(outputs, filters)
        same = bool((bias == bias[0]).all())
        numbers = {"w": layer.taps.weight, "b": bias[0] if same else bias}
        if rank:
            numbers |= {"h": layer.h, "s": layer.shift}
        for name, tensor in numbers.items():
            declared.append(c_array("float", f"net_{name}{j}", _floats(tensor)))
            bytes_total += 4 * tensor.numel()
        buffers[j % 2] = max(buffers[j % 2], input_maps * _padded(extent, border))
        rows.append(
            f"    {{{inputs}, {1 if rank else channels}, {outputs}, {filters}, {averaged}, {extent[0]}, {extent[1]}, "
            f"{reached[0]}, {reached[1]}, {stride[0]}, {stride[1]}, {support[0]}, {support[1]}, {next_border[0]}, "
            f"{next_border[1]}, {taps}, {rank}, {0 if same else filters}, net_w{j}, "
            f"net_b{j}, {f'net_h{j}, net_s{j}' if rank else '0, 0'}, net_pairs{tables[key]}, net_ends{tables[key]}}},"
        )
        input_maps, extent = outputs // averaged * filters, reached
    last = len(layers) % 2
    buffers[last] = max(buffers[last], input_maps * math.prod(extent))
    readout = {"readout": network.readout_weight, "readout_bias": network.readout_bias} if network.linear else {}
    readout = readout or {"readout": network.scale}
    for name, tensor in (readout | {"mean": network.mean, "deviation": network.std}).items():
        declared.append(c_array("float", f"net_{name}", _floats(tensor)))
        bytes_total += 4 * tensor.numel()
    first_border = [k // 2 for k in _plane(layers[0].support)]
    constants = {
        "CHANNELS": network.config.channels, "HEIGHT": plane[0], "WIDTH": plane[1], "CLASSES": network.config.classes,
        "LAYERS": len(layers), "BORDER_Y": first_border[0], "BORDER_X": first_border[1], "EVEN": buffers[0],
        "ODD": max(buffers[1], 1), "MAX_COLUMNS": columns, "MAX_INNER": inner, "NEWEST": network.newest,
        "LINEAR": int(network.linear), "PERIODIC": int(network.config.boundary == "circular"),
    }  # fmt: skip
    buffer_bytes = 4 * (buffers[0] + buffers[1] + columns + inner + network.config.channels * math.prod(plane))
    runtime = (files("hcnn.export") / "runtime.c").read_text(encoding="utf-8")
    head, body = runtime.split("/* TABLES */\n")
    about = _ABOUT.format(tables=bytes_total, buffers=buffer_bytes, multiply_adds=multiply_adds, **constants)
    macros = {name: f"#define NET_{name} {value}\n" for name, value in constants.items()}
    interface = "".join(macros.pop(name) for name in ("CHANNELS", "HEIGHT", "WIDTH", "CLASSES")) + _INTERFACE
    start = [about, "#include <math.h>\n#include <string.h>\n\n", interface, "\n", *macros.values(), head]
    body += main_program("float", "%.9g", "double")
    text = whole_file(prefix, preprocessing.classes, "".join(start), declared, rows, body)
    header = MARK.sub(prefix, f"{about}#ifndef HCNN_NET_H\n#define HCNN_NET_H\n\n{interface}\n#endif\n")
    return CSource(text, header, bytes_total, buffer_bytes, multiply_adds)


def main_program(kind: str, conversion: str, printed: str) -> str:
    """The program of -DHCNN_MAIN, for logits of a type, printed by a conversion of printf as another type."""
    text = (files("hcnn.export") / "main.c").read_text(encoding="utf-8")
    for name, value in (("LOGIT_TYPE", kind), ("LOGIT_FORMAT", f'"{conversion} "'), ("LOGIT_PRINTED", printed)):
        text = text.replace(name, value)
    return text


def whole_file(
    prefix: str, classes: Iterable[str], start: str, tables: Iterable[str], rows: Iterable[str], body: str
) -> str:
    """The source file: what comes before the tables, the tables, the names of the classes, the layers, the functions.

    The names of the classes come from outside: the prefix does not go into them.
    """
    names = ", ".join(c_string(name) for name in classes)
    layers = ["static const net_layer_t net_layers[NET_LAYERS] = {", *rows, "};", body]
    return "".join(
        [
            MARK.sub(prefix, start + "\n".join(tables)),
            f"\nconst char *const {prefix}_classes[{prefix}_CLASSES] = {{{names}}};\n",
            MARK.sub(prefix, "\n".join(layers)),
        ]
    )


# Names that the file defines begin with this mark here, in runtime.c and in main.c, and with the prefix in the file.
MARK = re.compile(r"(?<![A-Za-z0-9])(net|NET)(?=_)")

_ABOUT = """\
/* A hierarchical attribute CNN, written by hcnn. C99 and C++, no dependency but the C library, no allocation.
 *
 *     void net_logits(const float *pixels, float *logits);           pixels from 0 to 1
 *     int net_classify(const unsigned char *bytes, float *logits);   returns the class, an index of net_classes
 *
 * Images are {CHANNELS} x {HEIGHT} x {WIDTH} (channels, rows, columns), logits {CLASSES}.
 * The buffers are static: calls of one network must not overlap.
 * Constants: {tables} bytes. Static buffers: {buffers} bytes. Multiply-adds of one image: {multiply_adds}.
 *
 * cc -std=c99 -O3 -c FILE.c; link with -lm. With -DHCNN_MAIN it is a program: raw images in, logits and classes out.
 */
"""

_INTERFACE = """\

#ifdef __cplusplus
extern "C" {
#endif
extern const char *const net_classes[NET_CLASSES];
void net_logits(const float *pixels, float *logits);
int net_classify(const unsigned char *bytes, float *logits);
#ifdef __cplusplus
}
#endif
"""


def _plane(values: Sequence[int]) -> tuple[int, int]:
    """One entry per axis of a plane; a line counts as a plane of one row."""
    entries = tuple(int(v) for v in values)
    return (1, entries[0]) if len(entries) == 1 else (entries[0], entries[1])


def _padded(extent: Sequence[int], border: Sequence[int]) -> int:
    return math.prod(n + 2 * b for n, b in zip(extent, border, strict=True))


def _pairs(index: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (input, tap), output by output, and the position where the pairs of each output end."""
    if max(index.shape[1], int(index.max()) + 1) > 1 << 16:
        raise ValueError(f"export c: at most 65,536 attributes and taps; got {index.shape[1]} and {int(index.max())}")
    outputs, inputs = torch.nonzero(index >= 0, as_tuple=True)
    pairs = torch.stack([inputs, index[outputs, inputs]], 1).numpy().astype(np.uint16)
    return pairs, (index >= 0).sum(1).cumsum(0).numpy().astype(np.int32)


def _floats(tensor: Tensor) -> Iterable[str]:
    for value in tensor.flatten().tolist():
        text = f"{value:.9g}"  # enough digits to read the same float
        yield text + ("f" if "." in text or "e" in text else ".0f")


def c_array(kind: str, name: str, values: Iterable[str]) -> str:
    """A constant table of C."""
    return f"static const {kind} {name}[] = {{{', '.join(values)}}};"
