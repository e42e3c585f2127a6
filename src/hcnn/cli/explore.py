"""`hcnn figure` and `hcnn explore`: pictures and numbers about the attributes of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hcnn.explore import AttributeSource, Explorer, Source, channels_like, open_explorer
from hcnn.models.hierarchical import AttributeNetwork
from hcnn.models.pretrained import load_named
from hcnn.runs.load import load_run
from hcnn.storage.atomic import ensure_writable


@dataclass(frozen=True)
class Figure:
    """Draw figure 3 or 4 of the paper for a run: images found at translated attribute arrays.

    Example: hcnn figure 3 runs/demo --depth 5
    """

    number: tyro.conf.Positional[Literal[3, 4]]
    """3: queries by shift, with the arrays beneath; 4: depth by shift."""
    run: tyro.conf.Positional[Path]
    """A run folder, or a model whose trained weights lie in the package."""
    query: tuple[int, ...] = ()
    """Images of the data base, by number; by default the first of each of four classes (figure 4: of one)."""
    depth: int | None = None
    """Figure 3: j; J-1 if not given."""
    attribute: str | None = None
    """Figure 3: for example v6; v(j-1) if not given."""
    output: Path | None = None
    """The PNG; figure-3.png in the run folder if not given."""
    data: str | None = None
    """The data base: training images of other data; the run's own by default."""
    data_dir: Path | None = None
    """Where data sets lie."""
    position: Literal["centre", "mean"] = "centre"
    """Arrays at the central position u0, or averaged over u."""


@dataclass(frozen=True)
class Explore:
    """Measure what the attributes of a run mean, with controls beside, and draw it.

    Example: hcnn explore runs/demo --queries 200

    Writes report.html, study.json, three tables as CSV, and figures; prints what was found. The arrays of the data
    base are computed once, into the run folder; a second call goes on from there.
    """

    run: tyro.conf.Positional[Path]
    """A run folder, or a model whose trained weights lie in the package."""
    data: str | None = None
    """The data base: training images of other data; the run's own by default."""
    data_dir: Path | None = None
    """Where data sets lie."""
    output: Path | None = None
    """Where results go; explore in the run folder if not given."""
    arrays: Path | None = None
    """Where the arrays of the data base lie or go; arrays-POSITION in the run folder if not given."""
    position: Literal["centre", "mean"] = "centre"
    """Arrays at the central position u0, or averaged over u."""
    engine: Literal["torch", "faiss"] = "torch"
    """How neighbours are searched; both give the same."""
    queries: int = 500
    """Images asked about: held-out ones if there are some."""
    changed: int = 200
    """Images whose properties are changed."""
    flat: int = 200
    """Images whose arrays are translated inside the network."""
    control: tuple[Path, ...] = ()
    """Runs of other networks on the same data, as further controls; an ordinary CNN's channels have no order."""
    orders: int = 8
    """Shuffled orders per attribute, as a control for properties."""
    seed: int = 0
    """Of queries, orders and the untrained network."""
    device: str = "cpu"
    """Where arrays are computed."""
    threads: int | None = None
    """CPU threads of torch; its own choice if not given."""


def open_with_progress(
    run: Path, console: Console, *, data: str | None, data_dir: Path | None, **options: Any
) -> Explorer:
    """`open_explorer` with a progress bar while arrays are computed."""
    with Progress(
        TextColumn("arrays"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        return open_explorer(
            run,
            data=data,
            data_dir=data_dir,
            on_block=lambda done, n: bar.update(task, completed=done, total=n),
            **options,
        )


def run_figure(command: Figure, console: Console) -> None:
    """Carry out `hcnn figure`."""
    from hcnn.explore import figures

    explorer = open_with_progress(
        command.run, console, data=command.data, data_dir=command.data_dir, position=command.position
    )
    folder = command.run if command.run.is_dir() else Path()
    path = command.output or folder / f"figure-{command.number}.png"
    if command.number == 3:
        figures.figure3(explorer, path, queries=command.query or None, j=command.depth, axis=command.attribute)
    else:
        if command.depth is not None or command.attribute is not None:
            raise ValueError("figure 4 shows every depth along v(j-1): --depth and --attribute are for figure 3")
        if len(command.query) > 1:
            raise ValueError(f"figure 4: expected one --query; got {len(command.query)}")
        figures.figure4(explorer, path, query=command.query[0] if command.query else None)
    console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def run_explore(command: Explore, console: Console) -> None:
    """Carry out `hcnn explore`."""
    from hcnn.explore import figures
    from hcnn.explore.findings import findings
    from hcnn.explore.page.report import write_report
    from hcnn.explore.study import StudySettings, run_study
    from hcnn.explore.study_figures import draw_study

    for name in ("queries", "changed", "flat", "orders", "threads"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected 1 or more; got {value}")
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    load_named(command.run)  # before anything is written
    output = ensure_writable(command.output or (command.run if command.run.is_dir() else Path()) / "explore")
    explorer = open_with_progress(
        command.run,
        console,
        data=command.data,
        data_dir=command.data_dir,
        folder=command.arrays,
        position=command.position,
        engine=command.engine,
        device=command.device,
    )
    settings = StudySettings(command.queries, command.changed, command.flat, command.orders, seed=command.seed)
    with console.status("measuring") as status:
        study = run_study(
            explorer, settings=settings, controls=_controls(command, explorer), say=lambda text: status.update(text)
        )
    written = study.write(output)
    if explorer.base.images.ndim == 4 and explorer.base.images.shape[1] in (1, 3):
        written += draw_study(study, output)
        for name, draw in (("figure-3.png", figures.figure3), ("figure-4.png", figures.figure4)):
            draw(explorer, output / name)
            written.append(output / name)
        written.append(write_report(explorer, study, output))
    table = Table(title=f"{command.run}: {study.info['queries']}, {len(explorer.base):,} images", show_header=False)
    for sentence in findings(study):
        table.add_row(sentence)
    console.print(table)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _controls(command: Explore, explorer: Explorer) -> dict[str, Source]:
    """The networks of further runs, which must have been trained on the same data."""
    controls: dict[str, Source] = {}
    for path in command.control:
        if path.name in ("trained", "untrained", *controls):
            raise ValueError(
                f"--control: expected runs of different names; got {path.name} twice, or as a reserved name"
            )
        run = load_run(path)
        if run.preprocessing != explorer.run.preprocessing:
            raise ValueError(f"--control: {path} was trained on other data than {command.run}")
        model: Any = run.model.to(command.device)
        example = run.preprocessing.standardize(explorer.base.images[:1].to(command.device))
        ordered = isinstance(model, AttributeNetwork)
        controls[path.name] = AttributeSource(model) if ordered else channels_like(model, explorer.source, example)
    return controls


ACTIONS: dict[type, Callable[[Any, Console], None]] = {Figure: run_figure, Explore: run_explore}
