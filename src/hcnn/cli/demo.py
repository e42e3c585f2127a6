"""`hcnn demo`: the digits of scikit-learn, from data to prediction."""

from argparse import Namespace
from pathlib import Path

from rich.console import Console

from hcnn.cli.terminal import say
from hcnn.cli.train import train_one
from hcnn.data import datasets
from hcnn.models.registry import model_config
from hcnn.runs.settings import RunSettings
from hcnn.training.recipes import RECIPES, get_recipe


def demo(options: Namespace, console: Console) -> None:
    """Train on the digits and leave a picture to predict."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)  # these images are too small for several, which on a busy machine take many times as long
    recipe = get_recipe("digits", epochs=RECIPES["digits"].epochs if options.epochs is None else options.epochs)
    splits = datasets.load("digits")
    assert splits.test is not None
    say(
        console,
        f"Training an HCNN on {len(splits.train):,} handwritten digits of 8x8 pixels; {len(splits.test)} more are the "
        "test set.",
    )
    folder = options.output or _free_folder(Path("runs/demo"))
    settings = RunSettings(model_config("hcnn_digits"), recipe, "digits", options.seed)
    train_one(folder, settings, splits, console, ("hcnn_digits", "digits"))
    sample = folder / "sample.png"
    Image.fromarray(splits.test.images[0, 0].numpy()).save(sample)
    say(console, f"wrote {sample} (a {splits.test.classes[int(splits.test.labels[0])]} from the test set)")
    say(console, f"try: hcnn predict {folder} {sample}")


def _free_folder(base: Path) -> Path:
    candidates = [base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())
