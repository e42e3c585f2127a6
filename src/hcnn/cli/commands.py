"""Every command of `hcnn`: what it does in a line, its options, and where it is carried out.

Nothing here imports PyTorch, so that help is quick.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from hcnn.cli import train_options, train_parser
from hcnn.cli.options import Parser, name_or_path

_RUN = "A run folder, or the name of a model whose pretrained weights ship with the package."
_NETWORK = _RUN.replace("run folder,", "run folder, a Hub folder, folded weights,")
_DATA_DIR = "Folder of the data sets. Default: $HCNN_DATA, else ~/.cache/hcnn."
_DATABASE = "Search the training images of another data set. Default: the data set of the run."
_POSITION = "Take attribute arrays at the central position, or average them over space. Default: centre."
_THREADS = "Number of CPU threads. Default: PyTorch's own choice."


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        summary: one sentence.
        example: as a user types it.
        add_options: declares its options.
        target: "module:function" of `hcnn.cli`, called with the options and a console.
        details: further paragraphs for its help.
    """

    summary: str
    example: str
    add_options: Callable[[Parser], None]
    target: str
    details: str = ""

    @property
    def description(self) -> str:
        """What stands above the options in its help."""
        return f"{self.summary}\n\nExample: {self.example}\n{self.details}".rstrip()

    def parser(self, name: str) -> Parser:
        """The parser of all its options."""
        parser = Parser(name, self.description)
        self.add_options(parser)
        return parser

    def read(self, name: str, words: Sequence[str]) -> Namespace:
        """The options in the words after the command's name."""
        return self.parser(name).parse(words)

    def run(self, options: Any, console: Console) -> None:
        """Carry it out."""
        module, function = self.target.split(":")
        getattr(import_module(f"hcnn.cli.{module}"), function)(options, console)


@dataclass(frozen=True)
class TrainCommand(Command):
    """`hcnn train` and `hcnn tune`, whose options depend on the network and the data that they name."""

    def parser(self, name: str) -> Parser:
        """The parser of all its options, with those of the default network and recipe."""
        return train_parser.make_parser((), self.description, name)[0]

    def read(self, name: str, words: Sequence[str]) -> Any:
        """The options in the words after the command's name."""
        return train_options.read(words, self.description, name)


def _demo(add: Parser) -> None:
    add.add_argument(
        "--output", type=Path,
        help="Run folder. Default: runs/demo, or the next free runs/demo-N; with --resume, the last one there is.",
    )  # fmt: skip
    add.add_argument("--resume", action="store_true", help="Resume a demo that was interrupted.")
    add.add_argument("--epochs", type=int, metavar="N", help="Passes over the 1,437 training images. Default: 30.")
    add.add_argument(
        "--seed", type=int, default=0, metavar="N", help="Random seed for initialization and data order. Default: 0."
    )


def _evaluate(add: Parser) -> None:
    add.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=_NETWORK)
    add.add_argument(
        "--data",
        type=name_or_path,
        help="Another data set, or a labelled folder, with the same classes. Default: the data set of the run.",
    )
    add.add_argument("--data-dir", type=Path, help=_DATA_DIR)
    add.add_argument(
        "--on", choices=("test", "validation", "train"),
        help="Which images. Default: the test images or, if there are none, the validation images, including those "
        "that training set aside; all images of a folder that is not divided into such parts.",
    )  # fmt: skip
    add.add_argument(
        "--shifts", action="store_true",
        help="Also measure robustness: accuracy under crops, JPEG, blur, noise, brightness, contrast, hue and "
        "rotation, at five strengths each. Several runs are drawn beside each other.",
    )  # fmt: skip
    add.add_argument("--format", choices=("text", "json"), default="text", help="text, or a line of JSON for each run.")
    add.add_argument(
        "--output", type=Path,
        help="The folder to write. Default: evaluation/ in the run folder; MODEL-evaluation/ for a pretrained model.",
    )  # fmt: skip


def _summary(add: Parser) -> None:
    add.add_argument(
        "model", type=name_or_path, metavar="NETWORK",
        help="The name of a network, as `hcnn models` lists them, a run folder, or a Hub folder.",
    )  # fmt: skip
    add.add_argument("--image-size", type=int, metavar="N", help="Side length of the image. Default: as in training.")


def _predict(add: Parser) -> None:
    add.add_argument("run", type=Path, metavar="RUN", help=_NETWORK)
    add.add_argument(
        "images", type=Path, nargs="*", default=[], metavar="IMAGE",
        help="Image files, .npy arrays, or folders that are searched for both; - reads standard input, which holds one "
        "image, or a path on each line.",
    )  # fmt: skip
    add.add_argument("--top", type=int, default=3, metavar="N", help="Number of classes to show. Default: 3.")
    add.add_argument(
        "--format", choices=("text", "table", "json", "csv"), default="text",
        help="A line for each image, an aligned table, JSON lines, or CSV. Default: text.",
    )  # fmt: skip
    add.add_argument(
        "--bad-images", choices=("refuse", "skip"), default="refuse",
        help="At an image that cannot be read, stop with exit code 2, or report it on standard error and continue. "
        "Default: refuse.",
    )  # fmt: skip
    add.add_argument("--batch-size", type=int, default=64, metavar="N", help="Images in a batch. Default: 64.")
    add.add_argument(
        "--channels", choices=("auto", "first", "last"), default="auto",
        help="Where the channels of .npy arrays are, (c, *u) or (*u, c). Default: auto, decided by their shape.",
    )  # fmt: skip


def _export(add: Parser) -> None:
    add.add_argument("run", type=Path, metavar="RUN", help=_NETWORK)
    add.add_argument(
        "--to", choices=("onnx", "torch", "safetensors", "c", "html", "executorch"), required=True,
        help="onnx: an ONNX file; torch: a torch.export program; safetensors: a folder of folded weights with a model "
        "card; c: a C99 source file with its header, for one image size; html: a page that classifies pictures in any "
        "browser, offline; executorch: an ExecuTorch program for one image size.",
    )  # fmt: skip
    add.add_argument(
        "--output", type=Path,
        help="The file (for safetensors, the folder) to write. Default: model.onnx, model.pt2, model.c, "
        "model.html, model.pte or folded/ in the run folder, or in MODEL-export/ for a pretrained model.",
    )  # fmt: skip
    add.add_argument("--force", action="store_true", help="Replace existing files that hcnn export did not write.")
    add.add_argument(
        "--int8", action="store_true",
        help="For ONNX and C: static int8 quantization, calibrated on training images. The C file computes with "
        "integers only, for microcontrollers, and can be made of a ResNet-8 too. The loss of accuracy is measured on "
        "validation or test images and printed.",
    )  # fmt: skip
    add.add_argument(
        "--image-size", type=int, metavar="N",
        help="For C and ExecuTorch: side length of the images. Default: as in training.",
    )  # fmt: skip
    add.add_argument(
        "--prefix", help="For C: the start of every name that the file defines. Default: made from the file's name."
    )
    add.add_argument(
        "--data",
        type=name_or_path,
        help="The data set to check the file with. Default: that of the run, or synthetic images if that is not on "
        "this machine.",
    )
    add.add_argument("--data-dir", type=Path, help=_DATA_DIR)


def _figure(add: Parser) -> None:
    add.add_argument("number", type=int, choices=(3, 4), help="3: query images by shift; 4: depth by shift.")
    add.add_argument("run", type=Path, metavar="RUN", help=_RUN)
    add.add_argument(
        "--query", type=int, nargs="*", default=(), metavar="N",
        help="Numbers of the query images in the searched data set. Default: the first image of each of four classes "
        "(figure 4: of one class).",
    )  # fmt: skip
    add.add_argument("--depth", type=int, metavar="J", help="Figure 3: the layer j. Default: J-1.")
    add.add_argument("--attribute", metavar="NAME", help="Figure 3: the attribute, such as v6. Default: v(j-1).")
    add.add_argument(
        "--output", type=Path,
        help="The PNG file. Default: figure-3.png or figure-4.png in the run folder; for a pretrained model "
        "MODEL-figure-3.png or MODEL-figure-4.png.",
    )  # fmt: skip
    _searched(add)


def _searched(add: Parser) -> None:
    add.add_argument("--data", type=name_or_path, help=_DATABASE)
    add.add_argument("--data-dir", type=Path, help=_DATA_DIR)
    add.add_argument("--position", choices=("centre", "mean"), default="centre", help=_POSITION)


def _arrays(add: Parser) -> None:
    add.add_argument(
        "--arrays", type=Path,
        help="Folder of the computed arrays, which is made if missing. Default: arrays-POSITION in the run folder, "
        "followed by the name of --data if it is given; runs/MODEL-arrays-POSITION for a pretrained model.",
    )  # fmt: skip


def _explore(add: Parser) -> None:
    add.add_argument("run", type=Path, metavar="RUN", help=_RUN)
    _searched(add)
    add.add_argument(
        "--output", type=Path,
        help="Folder of the results. Default: explore/ in the run folder; MODEL-explore/ for a pretrained model.",
    )  # fmt: skip
    _arrays(add)
    for name, default, text in (
        ("queries", 500, "Number of query images; held-out images are used where there are some"),
        ("changed", 200, "Number of images whose properties are changed"),
        ("flat", 200, "Number of images whose arrays are translated inside the network"),
        ("orders", 19, "Number of shuffled orders of each attribute that serve as a control"),
        ("seed", 0, "Random seed for queries, orders and the untrained network"),
    ):
        add.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text}. Default: {default}.")
    add.add_argument(
        "--control", type=Path, nargs="*", default=(), metavar="RUN",
        help="Runs of other networks on the same data, as further controls; the channels of an ordinary CNN have no "
        "order.",
    )  # fmt: skip
    add.add_argument("--device", default="cpu", help="Device that computes the arrays. Default: cpu.")
    add.add_argument("--threads", type=int, metavar="N", help=_THREADS)


def _serve(add: Parser) -> None:
    add.add_argument("run", type=Path, metavar="RUN", help=_RUN)
    _searched(add)
    _arrays(add)
    add.add_argument(
        "--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 admits other machines. Default: 127.0.0.1."
    )
    add.add_argument("--port", type=int, default=8000, metavar="N", help="Port; 0 takes any free one. Default: 8000.")
    add.add_argument(
        "--allow-host", nargs="*", default=(), metavar="NAME",
        help="Further names under which browsers may reach this server. By default it answers only requests to "
        "localhost, 127.0.0.1, [::1], --host, and the address at which they arrive.",
    )  # fmt: skip


def _compare(add: Parser) -> None:
    add.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), metavar="RESULTS",
        help="Folder that is searched for result.json. Default: results.",
    )  # fmt: skip
    add.add_argument(
        "--output", type=Path, help="Folder of comparison.md, .csv and .png. Default: the folder of the results."
    )
    add.add_argument(
        "--measure", action="store_true",
        help="First measure the images per second of every network at 32x32 on this machine, and keep them in "
        "throughput.json.",
    )  # fmt: skip
    add.add_argument("--batch", type=int, metavar="N", help="With --measure: batch size. Default: 20.")
    add.add_argument("--seconds", type=float, metavar="X", help="With --measure: time for each. Default: 2.")
    add.add_argument("--threads", type=int, metavar="N", help=_THREADS)


def _bench(add: Parser) -> None:
    add.add_argument(
        "--output", type=Path, default=Path("runs/bench"),
        help="Folder of bench.json, bench.md and the plots. Default: runs/bench.",
    )  # fmt: skip
    add.add_argument(
        "--quick", action="store_true", help="Small batches and few sizes: a check that it works, not a measurement."
    )
    add.add_argument("--device", default="cpu", help="cpu or cuda. Default: cpu.")
    add.add_argument("--rounds", type=int, default=3, metavar="N", help="How often each step is timed. Default: 3.")


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "Train an HCNN on the handwritten digits of scikit-learn.", "hcnn demo --epochs 4", _demo, "demo:demo"
    ),
    "train": TrainCommand(
        "Train a network and write a run folder.",
        "hcnn train digits --output runs/digits --epochs 5",
        lambda add: None,
        "train:train",
        "\nEvery setting of the network, the recipe and distillation can be changed with --set KEY=VALUE, or as an "
        "option of its own; --help-all lists them with their defaults for --model and --recipe.",
    ),
    "tune": TrainCommand(
        "Search for a learning rate, weight decay, width and batch size on validation images.",
        "hcnn tune photos/ --trials 9 --output runs/tune-photos",
        lambda add: None,
        "tune:tune",
        "\nSuccessive halving: every round trains its trials from scratch, keeps the best third and triples the "
        "epochs. The last round trains one network for all epochs, and its run folder is like any other. Settings that "
        "are given as options keep their values. Test images are never read.",
    ),
    "evaluate": Command(
        "Measure how good trained networks are, and write a page that shows it.", "hcnn evaluate runs/demo --shifts",
        _evaluate, "evaluate:evaluate_runs",
    ),
    "predict": Command(
        "Classify images: files, folders, or standard input.",
        "hcnn predict runs/demo photos/ --format csv > classes.csv",
        _predict,
        "predict:predict",
        "\nImages are read batch by batch, so memory use does not depend on their number.",
    ),
    "export": Command(
        "Write the folded network for other programs, after checking it on images.",
        "hcnn export runs/demo --to onnx", _export, "export:export",
    ),
    "summary": Command(
        "Show a network layer by layer: axes, supports, strides, weights, multiply-adds.",
        "hcnn summary hcnn_cifar10", _summary, "inspect:summary",
    ),
    "models": Command(
        "List the named networks: sizes, multiply-adds, trained weights.", "hcnn models", lambda add: None,
        "inspect:models",
    ),
    "figure": Command(
        "Draw figure 3 or 4 of the paper for a run: images found at translated attribute arrays.",
        "hcnn figure 3 runs/demo --depth 5", _figure, "explore:figure",
    ),
    "explore": Command(
        "Measure, with controls, what the attributes of a network mean, and write a report.",
        "hcnn explore runs/demo --queries 200",
        _explore,
        "explore:explore",
        "\nWrites report.html, study.json, four CSV tables and figures, and prints the findings. The arrays are "
        "computed once and kept in the run folder.",
    ),
    "serve": Command(
        "Serve a web page about a network: sliders along its attributes, and the images found there.",
        "hcnn serve runs/demo",
        _serve,
        "serve:serve",
        "\nThe arrays are computed once and kept in the run folder, where hcnn explore finds them too.",
    ),
    "compare": Command(
        "Compare our results with the published ones: a table in Markdown and CSV, and a plot.",
        "hcnn compare results --output results", _compare, "compare:compare",
    ),
    "bench": Command(
        "Time every method, the paper's order of operations (the two-step network), and the limits of this machine.",
        "hcnn bench --quick --output runs/bench", _bench, "bench:bench",
    ),
}  # fmt: skip
