"""Time one image in the JavaScript network of `hcnn export --to html`: python benchmarks/html_page.py [NETWORK ...].

Networks have random weights; node (Node.js) is needed. Processor time, which other programs on the machine disturb less
than the clock on the wall, best of nine after the first.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import hcnn
from hcnn.data.preprocessing import Preprocessing
from hcnn.export.html_file import engine, network_spec
from hcnn.export.plain_network import PlainNetwork
from hcnn.models.attribute_network import AttributeNetwork

NETWORKS = ("hcnn_digits", "hcnn_small_cifar10", "hcnn_cifar10", "hcnn_cifar10_circular", "hcnn_plus_cifar10")
SCRIPT = """
const net = require('./network.js').load(JSON.parse(require('fs').readFileSync('spec.json'))), times = [];
const bytes = Uint8Array.from({ length: +process.argv[1] }, (_, i) => (i * 37) % 256);
for (let i = 0; i < 10; i++) {
  const start = process.cpuUsage();
  net.forward(bytes);
  const used = process.cpuUsage(start);
  times.push((used.user + used.system) / 1000);
}
console.log(`first ${times[0].toFixed(1)} ms, then ${Math.min(...times.slice(1)).toFixed(1)} ms`);
"""


def main(names: list[str]) -> None:
    """Print a line for each network."""
    node = shutil.which("node") or sys.exit("this needs node (Node.js)")
    for name in names or NETWORKS:
        torch.manual_seed(0)
        model = hcnn.create_model(name).eval()
        channels = model.config.channels
        size = (8, 8) if "digits" in name else (32, 32)
        classes = tuple(map(str, range(model.config.classes)))
        preprocessing = Preprocessing((0.5,) * channels, (0.25,) * channels, size, classes)
        assert isinstance(model, AttributeNetwork)
        spec = network_spec(PlainNetwork(model, preprocessing), preprocessing)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "network.js").write_text(engine(), encoding="utf-8")
            Path(folder, "spec.json").write_text(json.dumps(spec), encoding="utf-8")
            command = [node, "-e", SCRIPT, str(channels * size[0] * size[1])]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        print(f"{name}: {done.stdout.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:])
