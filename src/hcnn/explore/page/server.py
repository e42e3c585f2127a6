"""The live page: `views` over HTTP, by default for this machine only."""

import asyncio
import re
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from hcnn.data.image_files import decode, read_image
from hcnn.explore.explorer import Explorer, Query
from hcnn.explore.page import images as pictures
from hcnn.explore.page.guard import Guard
from hcnn.explore.page.rate_limit import RateLimit
from hcnn.explore.page.report import static
from hcnn.explore.page.views import describe, grid, view

MAX_BYTES = 8 << 20  # of an upload
MAX_PIXELS = 25_000_000
_UPLOADS = 64  # kept in memory; the oldest goes first
_NUMBER, _UPLOAD = r"-?[0-9]{1,9}", r"[A-Za-z0-9_-]{12}"  # what requests call an image
_FILES = {  # the only files that are read: no part of a request becomes a path
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/view.js": ("view.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
}
UPLOAD_SECONDS = 30.0  # in which an upload must have arrived
_CLOSING_SECONDS = 2  # that requests in progress get when the server is stopped


class Uploads:
    """Images that visitors uploaded, by a random name, in memory only."""

    def __init__(self, explorer: Explorer, kept: int = _UPLOADS) -> None:
        self.shape, self.kept, self.numbers = explorer.base.images.shape[1:], kept, len(explorer.base)
        self._images: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> str:
        """Decode an image, resize and crop it like a training image, and give it a name.

        Raises:
            ValueError: if it is not an image, is damaged, or has too many pixels.
        """
        pixels = decode(data, lambda image: image.width * image.height)  # reads the header only
        if pixels > MAX_PIXELS:
            raise ValueError(f"expected at most {MAX_PIXELS:,} pixels; got {pixels:,}")
        image = read_image(data, size=(self.shape[1], self.shape[2]), channels=self.shape[0])
        name = secrets.token_urlsafe(9)
        with self._lock:
            self._images[name] = image
            if len(self._images) > self.kept:
                self._images.popitem(last=False)
        return name

    def get(self, name: str) -> Tensor:
        """The image of a name; a ValueError if it is not there (any more), or no name of an upload."""
        with self._lock:
            if name in self._images:
                return self._images[name]
        if re.fullmatch(_UPLOAD, name):
            raise ValueError("image: this upload is no longer stored; upload it again")
        raise ValueError(f"image: expected a number from 0 to {self.numbers - 1} or an upload; got {name[:40]!r}")


def make_app(
    explorer: Explorer,
    *,
    hosts: Iterable[str] = (),
    requests: RateLimit | None = None,
    uploads: RateLimit | None = None,
    upload_seconds: float = UPLOAD_SECONDS,
) -> Any:
    """The application, for uvicorn or any other ASGI server.

    Args:
        explorer: the run with its database.
        hosts: names of this server beside the loopback names and the address at which a request arrives.
        requests: limit on all requests of an address; by default 200 per second, or 1,000 at once.
        uploads: limit on uploads of an address; by default one per second, or 8 at once.
        upload_seconds: time that an upload may take to arrive.

    Returns:
        A FastAPI application. Bad input is answered with 4xx and a line that says what was expected.

    Raises:
        ImportError: if FastAPI is not installed; it names the extra.
    """
    try:
        from fastapi import FastAPI, Request, Response
        from fastapi.concurrency import run_in_threadpool
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
    except ImportError as error:
        raise ImportError("hcnn serve needs FastAPI and uvicorn: pip install 'hcnn[serve]'") from error
    requests, uploads = requests or RateLimit(200, 1000), uploads or RateLimit(1, 8)
    app = FastAPI(title="hcnn", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts, requests=requests, free=_FILES.keys())
    kept, about = Uploads(explorer), describe(explorer)

    def refuse(status: int, text: str) -> Any:
        return JSONResponse({"error": text}, status_code=status)

    def query(image: str) -> Query:
        return int(image) if re.fullmatch(_NUMBER, image) else kept.get(image)

    def asked(image: str, depth: int, move: str, axis: str, k: int) -> tuple[Query, dict[str, Any]]:
        if not 1 <= k <= 20:
            raise ValueError(f"k: expected 1 to 20 neighbours; got {k}")
        amounts = _amounts(move)
        chosen = query(image)
        axis = axis or next(iter(explorer.attributes(depth)))
        return chosen, view(explorer, chosen, depth, amounts, axis, k=k)

    @app.exception_handler(ValueError)
    def _(request: Any, error: ValueError) -> Any:
        return refuse(400, str(error))

    @app.exception_handler(RequestValidationError)
    def _(request: Any, error: RequestValidationError) -> Any:
        first = error.errors()[0]
        return refuse(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def _(request: Any, error: HTTPException) -> Any:
        return refuse(error.status_code, str(error.detail))

    def sends(name: str, kind: str) -> Callable[[], Any]:
        return lambda: Response(static(name), media_type=kind)

    for path, (name, kind) in _FILES.items():
        app.get(path)(sends(name, kind))

    @app.get("/api/about")
    def _() -> Any:
        return about

    @app.get("/api/view")
    def _(image: str, depth: int, move: str = "", axis: str = "", k: int = 6) -> Any:
        return asked(image, depth, move, axis, k)[1]

    @app.get("/api/grid")
    def _(image: str, depth: int) -> Any:
        return grid(explorer, query(image), depth)

    @app.get("/api/view.png")
    def _(image: str, depth: int, move: str = "", axis: str = "", k: int = 6) -> Any:
        return Response(pictures.view_png(explorer, *asked(image, depth, move, axis, k)), media_type="image/png")

    @app.get("/api/walk.gif")
    def _(image: str, depth: int, move: str = "", axis: str = "") -> Any:
        return Response(pictures.walk_gif(explorer, *asked(image, depth, move, axis, 1)), media_type="image/gif")

    @app.get("/image/{image}.png")
    def _(image: str) -> Any:
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(explorer.thumbnail(query(image), 1), media_type="image/png", headers=headers)

    @app.post("/api/upload")
    async def _(request: Request) -> Any:
        if not uploads.allows(request.client.host if request.client else ""):
            return refuse(429, "too many uploads: wait a moment")
        data = bytearray()
        try:
            async with asyncio.timeout(upload_seconds):
                async for part in request.stream():
                    data += part
                    if len(data) > MAX_BYTES:
                        return refuse(413, f"expected an image of at most {MAX_BYTES >> 20} MB; it is larger")
        except TimeoutError:
            return refuse(408, f"expected the whole image within {upload_seconds:g} seconds; {len(data):,} bytes came")
        except ClientDisconnect:  # nobody is left to read the answer
            return refuse(400, "the upload was broken off")
        return {"image": await run_in_threadpool(kept.add, bytes(data))}  # others are answered meanwhile

    return app


def run_app(app: Any, listening: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Serve an application until SIGINT or SIGTERM; whatever clients do, it ends within about two seconds then.

    Args:
        app: as `make_app` gives it.
        listening: the socket.
        started: called when requests are answered and both signals end the server.

    Raises:
        ImportError: if uvicorn is not installed; it names the extra.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("hcnn serve needs FastAPI and uvicorn: pip install 'hcnn[serve]'") from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    Server(config).run(sockets=[listening])


def _amounts(text: str) -> dict[str, float]:
    """Parse amounts per attribute, such as ``v6:1,v7:-0.5``."""
    amounts: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(v[0-9]{1,3}):(-?[0-9]{1,4}(?:\.[0-9]{1,4})?)", part)
        if match is None:
            raise ValueError(f"move: expected attributes with amounts, such as v6:1,v7:-0.5; got {part[:40]!r}")
        amounts[match[1]] = float(match[2])
    return amounts


def warm(explorer: Explorer, say: Callable[[str], None] = lambda text: None) -> None:
    """Prepare the search at every depth, so that the first visitor does not wait."""
    for j in explorer.depths:
        say(f"depth {j}")
        axis = next(iter(explorer.attributes(j)))
        view(explorer, 0, j, {axis: 1}, axis)
