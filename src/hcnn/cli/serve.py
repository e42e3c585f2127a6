"""The command `hcnn serve`."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from hcnn.cli.explore import open_with_progress


@dataclass(frozen=True)
class Serve:
    """Open a page on a run: sliders along its attributes, and the images that lie there.

    Example: hcnn serve runs/demo

    The arrays of the data base are computed once, into the run folder, or found where `hcnn explore` left them.
    """

    run: tyro.conf.Positional[Path]
    """A run folder, or a model whose trained weights lie in the package."""
    data: str | None = None
    """The data base: training images of other data; the run's own by default."""
    data_dir: Path | None = None
    """Where data sets lie."""
    arrays: Path | None = None
    """Where the arrays of the data base lie or go; arrays-POSITION in the run folder if not given."""
    position: Literal["centre", "mean"] = "centre"
    """Arrays at the central position u0, or averaged over u."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    allow_host: tuple[str, ...] = ()
    """Further names under which browsers may reach this server. By default it answers only requests to localhost,
    127.0.0.1, [::1], --host, and the address at which they arrive."""


def run_serve(command: Serve, console: Console) -> None:
    """Serve until interrupted."""
    from hcnn.explore.page.guard import host_name
    from hcnn.explore.page.server import make_app, run_app, warm

    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise ImportError("hcnn serve needs FastAPI and uvicorn: pip install 'hcnn[serve]'")
    for host in command.allow_host:
        if not host_name(f"[{host.strip('[]')}]" if ":" in host else host):
            raise ValueError(f"--allow-host: expected names without a port, such as example.org; got {host}")
    if not 0 <= command.port <= 65535:
        raise ValueError(f"--port: expected 0 to 65535; got {command.port}")
    try:  # before minutes of computing
        family = socket.AF_INET6 if ":" in command.host else socket.AF_INET
        listening = socket.create_server((command.host, command.port), family=family)
    except OSError as error:
        raise ValueError(f"--host {command.host} --port {command.port}: cannot listen there; {error}") from error
    with listening:
        explorer = open_with_progress(
            command.run,
            console,
            data=command.data,
            data_dir=command.data_dir,
            folder=command.arrays,
            position=command.position,
        )
        if explorer.base.images.ndim != 4 or explorer.base.images.shape[1] not in (1, 3):
            raise ValueError(f"{command.run}: expected a run on grey or RGB images, to show them")
        with console.status("preparing the search") as status:
            warm(explorer, lambda text: status.update(f"preparing the search: {text}"))
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(command.host, command.host)
        name = f"[{name}]" if ":" in name else name
        console.print(f"http://{name}:{listening.getsockname()[1]}/   (Ctrl-C ends)", soft_wrap=True, highlight=False)
        run_app(make_app(explorer, hosts=(command.host, *command.allow_host)), listening)


ACTIONS: dict[type, Callable[[Any, Console], None]] = {Serve: run_serve}
