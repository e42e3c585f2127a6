"""`hcnn figure` and `hcnn explore`: pictures and numbers about the attributes of a run."""

from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from hcnn.cli.outputs import STUDY, check_picture, default_place, results_in
from hcnn.cli.terminal import progress_bar, say, status
from hcnn.cli.train_plan import set_threads
from hcnn.data.splits import spread
from hcnn.explore import AttributeSource, Explorer, Source, channels_like, open_explorer
from hcnn.runs.load import Run, load_named, load_run
from hcnn.storage.atomic import output_folder
from hcnn.text import printable
from hcnn.training.device import find_device

_PAGE_IMAGES = 32  # candidates for the examples of the page in the report


def open_with_progress(options: Namespace, console: Console, **rest: Any) -> Explorer:
    """`open_explorer` for a command, with a progress bar while arrays are computed."""
    columns = (TextColumn("arrays"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(console, *columns) as bar:
        task = bar.add_task("", total=None)
        return open_explorer(
            options.run,
            data=options.data,
            data_dir=options.data_dir,
            position=options.position,
            on_block=lambda done, n: bar.update(task, completed=done, total=n),
            **rest,
        )


def check_shown(run: Path) -> None:
    """Refuse a run whose images cannot be shown, or that is none."""
    known = load_named(run).preprocessing
    if len(known.size) != 2 or len(known.mean) not in (1, 3):
        raise ValueError(f"{run}: expected a run on grey or RGB images, to show them")


def figure(options: Namespace, console: Console) -> None:
    """Draw figure 3 or 4."""
    from hcnn.explore import figures

    if options.number == 4:
        if options.depth is not None or options.attribute is not None:
            raise ValueError("figure 4 shows every depth along v(j-1): --depth and --attribute are for figure 3")
        if len(options.query) > 1:
            raise ValueError(f"figure 4: expected one --query; got {len(options.query)}")
    check_shown(options.run)  # before anything is computed or written
    path = options.output or default_place(options.run, f"figure-{options.number}.png")
    check_picture(path)
    with output_folder(path.parent):
        explorer = open_with_progress(options, console)
        if options.number == 3:
            figures.figure3(explorer, path, queries=options.query or None, j=options.depth, axis=options.attribute)
        else:
            figures.figure4(explorer, path, query=options.query[0] if options.query else None)
    say(console, f"wrote {path}")


def explore(options: Namespace, console: Console) -> None:
    """Run the study, write it, and print what it found."""
    from hcnn.explore import figures
    from hcnn.explore.answers import answers
    from hcnn.explore.findings import findings
    from hcnn.explore.page.report import write_report
    from hcnn.explore.study import StudySettings, run_study
    from hcnn.explore.study_figures import draw_study

    settings = StudySettings(options.queries, options.changed, options.flat, options.orders, seed=options.seed)
    set_threads(options.threads)
    find_device(options.device)
    others = _controls(options, load_named(options.run))  # before anything is computed or written
    output = options.output or default_place(options.run, "explore")
    with results_in(output, STUDY):
        explorer = open_with_progress(options, console, folder=options.arrays, device=options.device)
        with status(console, "measuring") as update:
            study = run_study(
                explorer, settings=settings, controls=_sources(others, explorer, options.device), say=update
            )
        written = study.write(output)
        if explorer.base.images.ndim == 4 and explorer.base.images.shape[1] in (1, 3):
            written += draw_study(study, output)
            for name, draw in (("figure-3.png", figures.figure3), ("figure-4.png", figures.figure4)):
                draw(explorer, output / name)
                written.append(output / name)
            written.append(
                write_report(explorer, study, output, network_page=_network_page(explorer, study.info["run"]))
            )
        title = printable(f"{options.run}: {study.info['queries']}; {len(explorer.base):,} images are searched")
        table = Table(title=title, show_header=False)
        for sentence in findings(study):
            table.add_row(printable(sentence))
        console.print(table)
        for one in answers(study, len(explorer.base.classes)):
            say(console, f"{one.question} {one.short}. {one.reason}")
        for path in written:
            say(console, f"wrote {path}")


def _network_page(explorer: Explorer, title: str) -> str:
    """The page that classifies a reader's image within the report."""
    from hcnn.export.html_file import network_page

    known = explorer.base if explorer.held_out is None else explorer.held_out
    known = known.subset(spread(len(known), _PAGE_IMAGES))
    text, _ = network_page(
        deepcopy(explorer.run.model).cpu(),  # where exports compute; arrays may come from another device
        known.images,
        explorer.run.preprocessing,
        labels=known.labels,
        title=title,
        lead="Give the network a picture, or take one of these.",
        what="report.html",
    )
    return text


def _controls(options: Namespace, explored: Run) -> dict[str, Run]:
    """The further runs, which must have been trained on the same data."""
    controls: dict[str, Run] = {}
    for path in options.control:
        name = path.resolve().name  # that of . and .. is another
        if name in ("trained", "untrained"):
            raise ValueError(f"--control: expected a run of another name; {name} names a network of every study")
        if name in controls:
            raise ValueError(f"--control: expected runs of different names; got {name} twice")
        run = load_run(path)
        if run.preprocessing != explored.preprocessing:
            raise ValueError(f"--control: {path} was trained on other data than {options.run}")
        controls[name] = run
    return controls


def _sources(controls: dict[str, Run], explorer: Explorer, device: str) -> dict[str, Source]:
    """The networks of the controls, from which arrays are read."""
    sources: dict[str, Source] = {}
    for name, run in controls.items():
        model: Any = run.model.to(device)
        example = run.preprocessing.standardize(explorer.base.images[:1].to(device))
        ordered = model.array_count > 0
        sources[name] = AttributeSource(model) if ordered else channels_like(model, explorer.source, example)
    return sources
