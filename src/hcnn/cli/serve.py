"""`hcnn serve`: a live page on a run."""

import socket
from argparse import Namespace
from importlib.util import find_spec

from rich.console import Console

from hcnn.cli.explore import check_shown, open_with_progress
from hcnn.cli.terminal import say, status


def serve(options: Namespace, console: Console) -> None:
    """Serve until interrupted."""
    from hcnn.explore.page.guard import host_name
    from hcnn.explore.page.server import make_app, run_app, warm

    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise ImportError("hcnn serve needs FastAPI and uvicorn: pip install 'hcnn[serve]'")
    for host in options.allow_host:
        if not host_name(f"[{host.strip('[]')}]" if ":" in host else host):
            raise ValueError(f"--allow-host: expected names without a port, such as example.org; got {host}")
    if not options.host:  # as an unset variable of a shell gives; it would mean every address of the machine
        raise ValueError("--host: expected a name or an address; got ''")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port: expected 0 to 65535; got {options.port}")
    check_shown(options.run)  # before minutes of computing, as the address below
    try:
        options.host.encode("idna")  # as the socket does, which would then be left open
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listening = socket.create_server((options.host, options.port), family=family)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {options.host} --port {options.port}: cannot listen there; {error}") from error
    with listening:
        explorer = open_with_progress(options, console, folder=options.arrays)
        with status(console, "preparing the search") as update:
            warm(explorer, lambda text: update(f"preparing the search: {text}"))
        host: str = options.host
        name: str = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        name = f"[{name}]" if ":" in name else name
        line = f"http://{name}:{listening.getsockname()[1]}/   (Ctrl-C ends)"
        app = make_app(explorer, hosts=(options.host, *options.allow_host))
        run_app(app, listening, started=lambda: say(console, line))
