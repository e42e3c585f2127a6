"""`hcnn demo`: the digits of scikit-learn, from data to prediction."""

import io
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from hcnn.cli.terminal import say
from hcnn.cli.train import train_one
from hcnn.data import datasets
from hcnn.models.registry import model_config
from hcnn.runs.settings import RunSettings
from hcnn.storage.atomic import write_atomically
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
    if options.output is None:
        options.output = _own_folder(Path("runs/demo"), resume=options.resume)
    folder: Path = options.output
    settings = RunSettings(model_config("hcnn_digits"), recipe, "digits", options.seed)
    train_one(folder, settings, splits, console, ("hcnn_digits", "digits"), resume=options.resume)
    sample = folder / "sample.png"
    buffer = io.BytesIO()
    Image.fromarray(splits.test.images[0, 0].numpy()).save(buffer, format="png")
    write_atomically(sample, buffer.getvalue())
    say(console, f"wrote {sample} (a {splits.test.classes[int(splits.test.labels[0])]} from the test set)")
    say(console, f"try: hcnn predict {folder} {sample}")


def _own_folder(base: Path, *, resume: bool) -> Path:
    """The first free one of `base`, base-2, base-3, …; to resume, the one before it."""
    before = base
    for path in (base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 10_000))):
        if not path.exists():
            return before if resume else path
        before = path
    raise ValueError(f"{base}: expected a free name up to {before.name}; give another --output")
