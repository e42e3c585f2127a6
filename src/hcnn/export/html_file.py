"""One HTML file that holds a network: it classifies pictures in a browser, without a server, and shows the arrays."""

import base64
import html
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hcnn.data.preprocessing import Preprocessing
from hcnn.export.parity import check_outputs
from hcnn.export.plain_network import PlainLayer, PlainNetwork, check_periodic
from hcnn.export.replace import SIGNATURE
from hcnn.models.attribute_network import AttributeNetwork
from hcnn.storage.atomic import StrPath, write_atomically
from hcnn.text import fill_template, printable

EXAMPLES = 8
LEAD = "This page holds a hierarchical attribute CNN and runs it on your device. Give it a picture."


def export_html(
    path: StrPath,
    model: AttributeNetwork,
    images: Tensor,
    preprocessing: Preprocessing,
    *,
    labels: Tensor | None = None,
    title: str = "hcnn",
) -> float | None:
    """Write one HTML file that classifies pictures in any browser, offline.

    The network runs in plain JavaScript, in a worker. The page takes a picture that is chosen, dropped, pasted,
    photographed or drawn, and shows every x_j as its ordered array with a slider for each attribute: the translated
    x_j goes through the rest of the network (`AttributeNetwork.forward_from`; Proposition 3.1 of the paper).

    Args:
        path: the file to write.
        model: a trained network with two spatial axes and one or three channels; it is folded here if it is not yet.
        images: uint8 (n, c, *u) to check the file with.
        preprocessing: standardization and class names.
        labels: classes of the images (n,). If given, eight images that the network answers correctly, of different
            classes where possible, become examples on the page.
        title: heading of the page.

    Returns:
        The largest difference from the network's logits, relative to the largest; None where there is no Node.js
        (node) to check it with.

    Raises:
        ValueError: if the network has other axes or channels, or the difference is above 1e-5; nothing is written.

    """
    text, difference = network_page(model, images, preprocessing, labels=labels, title=title, what=str(path))
    write_atomically(path, text.encode())
    return difference


def network_page(
    model: AttributeNetwork,
    images: Tensor,
    preprocessing: Preprocessing,
    *,
    labels: Tensor | None = None,
    title: str = "hcnn",
    lead: str = LEAD,
    what: str = "html page",
) -> tuple[str, float | None]:
    """The text of the file that `export_html` writes; `hcnn explore` puts it into its report.

    Args:
        model: a trained network.
        images: uint8 (n, c, *u) to check the page with.
        preprocessing: standardization and class names.
        labels: classes of the images (n,), for examples.
        title: heading of the page.
        lead: the sentences beneath the heading.
        what: what the page is called in errors.

    Returns:
        The HTML, and the largest difference from the network's logits as in `export_html`.

    Raises:
        ValueError: if the network has other axes or channels, or the difference is above 1e-5.

    """
    network = PlainNetwork(model, preprocessing)
    spec = network_spec(network, preprocessing) | {"arrays": attribute_axes(model)}
    difference = None
    if node := shutil.which("node"):

        def run(pixels: Tensor) -> Tensor:
            return run_node(node, spec, (pixels * 255).round().to(torch.uint8))

        difference = check_outputs(run, model, preprocessing, images, what)
    if labels is not None:
        spec["examples"] = examples(network, images, labels, preprocessing.classes)
    return page(spec, title, lead), difference


def network_spec(network: PlainNetwork, preprocessing: Preprocessing) -> dict[str, Any]:
    """A plain network as JSON: geometry, tables of taps, and every number in one base64 string of float32.

    Args:
        network: compact, with the standardization inside.
        preprocessing: its mean, deviation, size and class names.

    Returns:
        What ``hcnnNetwork.load`` of network.js reads.

    Raises:
        ValueError: if the network does not have two spatial axes and one or three channels, or its images are periodic
            and smaller than half a filter.

    Example:
        >>> from hcnn import create_model
        >>> preprocessing = Preprocessing((0.5,), (0.25,), (8, 8), tuple("0123456789"))
        >>> spec = network_spec(PlainNetwork(create_model("hcnn_digits"), preprocessing), preprocessing)
        >>> spec["layers"][2]["filters"], spec["layers"][2]["support"]
        (8, [3, 3])

    """
    config = network.config
    if config.spatial_axes != 2 or config.channels not in (1, 3):
        raise ValueError(
            f"export html: expected a network of images with 1 or 3 channels; got {config.spatial_axes} spatial axes "
            f"and {config.channels} channels"
        )
    numbers: list[np.ndarray] = []
    tables: dict[bytes, int] = {}
    indices: list[list[int]] = []

    def put(tensor: Tensor) -> list[int]:
        numbers.append(tensor.detach().numpy().astype("<f4").ravel())
        return [sum(map(len, numbers[:-1])), len(numbers[-1])]

    layers, extent = [], tuple(preprocessing.size)
    for layer in network.layers:
        assert isinstance(layer, PlainLayer)
        if layer.circular:
            check_periodic(extent, layer.support)
        extent = tuple((n - 1) // s + 1 for n, s in zip(extent, layer.stride, strict=True))
        index, weight = layer.taps.index, layer.taps.weight  # (o, a), (k, t, c, *ku)
        key = index.numpy().tobytes()
        if key not in tables:
            tables[key] = len(indices)
            indices.append(index.flatten().tolist())
        bias = layer.bias.reshape(len(index), len(weight))
        same = bool((bias == bias[0]).all())
        layers.append(
            {
                "averaged": layer.averaged,
                "channels": 1 if layer.plus else weight.shape[2],
                "outputs": len(index),
                "filters": len(weight),
                "taps": weight.shape[1],
                "rank": len(layer.h) if layer.plus else 0,
                "support": list(layer.support),
                "stride": list(layer.stride),
                "table": tables[key],
                "weight": put(weight),
                "bias": put(bias[0] if same else bias),
                "biasStep": 0 if same else 1,
                **({"h": put(layer.h), "shift": put(layer.shift)} if layer.plus else {}),
            }
        )
    readout = [network.readout_weight, network.readout_bias] if network.linear else [network.scale.reshape(1)]
    spots = [put(one) for one in readout]
    return {
        "classes": [printable(name) for name in preprocessing.classes],
        "channels": config.channels,
        "size": list(preprocessing.size),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "periodic": config.boundary == "circular",
        "linear": network.linear,
        "newest": network.newest,
        "readout": spots[0],
        "readoutBias": spots[-1],
        "layers": layers,
        "arrays": [],
        "tables": indices,
        "numbers": base64.b64encode(np.concatenate(numbers).tobytes()).decode(),
        "examples": [],
    }


def examples(network: PlainNetwork, images: Tensor, labels: Tensor, classes: Sequence[str]) -> list[dict[str, str]]:
    """Images that the network answers correctly, one of each class first: their bytes and the names of their classes.

    Args:
        network: with the standardization inside.
        images: uint8 (n, c, *u).
        labels: their classes (n,).
        classes: names of the classes.

    Returns:
        At most eight ``{"bytes": base64, "label": name}``.

    """
    with torch.no_grad():
        answers = torch.cat([network(part.float() / 255).argmax(1) for part in images.split(50)])
    turns: list[tuple[int, int]] = []  # how many of its class come before an image, and the image
    counts = [0] * len(classes)
    for position in torch.nonzero(answers == labels).flatten().tolist():
        label = int(labels[position])
        turns.append((counts[label], position))
        counts[label] += 1
    return [
        {
            "bytes": base64.b64encode(images[position].numpy().tobytes()).decode(),
            "label": printable(classes[int(labels[position])]),
        }
        for _, position in sorted(turns)[:EXAMPLES]
    ]


def page(spec: dict[str, Any], title: str, lead: str) -> str:
    """The HTML file of a network."""
    parts = {
        "mark": SIGNATURE,
        "title": html.escape(printable(title)),
        "lead": html.escape(printable(lead)),
        "style": _static("style.css"),
        "network": json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "engine": engine() + _static("worker.js"),
        "script": _static("pad.js", "page.js"),
    }
    return fill_template(_static("page.html"), parts)


def run_node(node: str, spec: dict[str, Any], images: Tensor) -> Tensor:
    """Logits (n, classes) of uint8 images (n, c, *u) from the JavaScript network, run by Node.js.

    Raises:
        ValueError: with the program's words, if it fails.
    """
    script = (
        "const fs=require('fs'),net=require('./network.js').load(JSON.parse(fs.readFileSync('spec.json')));"
        "const bytes=fs.readFileSync('images'),size=+process.argv[1];"
        "for(let i=0;i<bytes.length;i+=size)console.log(JSON.stringify(net.forward(bytes.subarray(i,i+size)).logits));"
    )
    with tempfile.TemporaryDirectory(prefix="hcnn-export-") as folder:
        Path(folder, "network.js").write_text(engine(), encoding="utf-8")
        Path(folder, "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        Path(folder, "images").write_bytes(images.numpy().tobytes())
        command = [node, "-e", script, str(images[0].numel())]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{node}: the JavaScript network failed:\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return torch.tensor([[math.nan if one is None else one for one in row] for row in rows])  # JSON has no NaN


def engine() -> str:
    """The JavaScript that defines ``hcnnNetwork``, whose ``load`` makes a network of a `network_spec`."""
    return _static("tiles.js", "network.js")


def _static(*names: str) -> str:
    folder = files("hcnn.export").joinpath("html")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def attribute_axes(model: AttributeNetwork) -> list[dict[str, Sequence[Any]]]:
    """Names and sizes of the attributes of each x_j, and the translations along them that leave the scores unchanged.

    Example:
        >>> from hcnn import create_model
        >>> attribute_axes(create_model("hcnn_digits"))[1]
        {'axes': ['v1', 'v2'], 'sizes': [4, 8], 'exact': [2, 4]}

    """
    found = []
    for j, sizes in enumerate(model.attribute_sizes, start=1):
        axes = [axis for axis in model.axes(j)[1:] if axis.startswith("v")]
        classes = f"v{len(model.layers)}"
        exact = [0 if axis == classes else model.invariant_shift(j, axis) for axis in axes]
        found.append({"axes": axes, "sizes": list(sizes), "exact": exact})
    return found
