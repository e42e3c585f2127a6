"""Which requests the live page answers: those to its own names, from its own pages, and not too many at once."""

import asyncio
import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from hcnn.explore.page.rate_limit import RateLimit
from hcnn.text import printable

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^\s\[\]:/?#@\\]{1,253})(:\d{1,5})?")


def host_name(authority: str) -> str:
    """The name in a Host header, in lower case and without the port; "" where there is none.

    Example:
        >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("a:b:c")
        ('localhost', '::1', '')

    """
    match = _HOST.fullmatch(authority.lower())
    return match[1].strip("[]").removesuffix(".") if match else ""


class Guard:
    """An ASGI application around another one, which refuses what a foreign page could ask through a visitor's browser.

    A page of another site can point a name of its own at 127.0.0.1 (DNS rebinding): only this server's names are
    answered, which are the loopback names, `hosts`, and the address at which the request arrived. A page of another
    site can also send requests whose answers it cannot read: what costs time or memory is answered only if the browser
    says that one of this server's own pages asks, or if no browser asks.

    HEAD is answered as GET is, without the body.

    Args:
        app: the application.
        hosts: further names of this server.
        requests: limit on the requests of an address.
        free: paths that pages of other sites may link to.

    """

    def __init__(self, app: Any, *, hosts: Iterable[str], requests: RateLimit, free: Collection[str]) -> None:
        self.app, self.requests, self.free = app, requests, free
        self.hosts = {*LOOPBACK, *(host.lower().strip("[]").removesuffix(".") for host in hosts)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        head, started = scope["method"] == "HEAD", False

        async def answer(message: Any) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        app: Any = self.app
        if refusal := self._refusal(scope):
            status, text = refusal
            app = JSONResponse({"error": text}, status_code=status)
        try:
            await app({**scope, "method": "GET"} if head else scope, receive, answer)
        except asyncio.CancelledError:  # the server stops and waits no longer; it would print a traceback
            if not started:
                await JSONResponse({"error": "the server is stopping"}, status_code=503)(scope, receive, answer)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and reason, or None where the request may pass."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        client, here = (scope.get(key) or ("",) for key in ("client", "server"))
        if not self.requests.allows(client[0]):
            return 429, "too many requests: wait a moment"
        hosts = headers.get("host", [])
        name = host_name(hosts[0]) if len(hosts) == 1 else ""
        if not name or name not in {*self.hosts, str(here[0]).lower()}:
            own = ", ".join(sorted(self.hosts))
            asked = printable(", ".join(hosts))[:100] or "no name"
            return 403, f"this server answers for {own}; got {asked}: hcnn serve --allow-host adds a name"
        if scope["path"] in self.free:
            return None
        sites, origins = headers.get("sec-fetch-site", []), headers.get("origin", [])
        if any(site not in ("same-origin", "none") for site in sites) or any(
            not _is_own(origin, hosts[0]) for origin in origins
        ):
            return 403, "expected a request from a page of this server; got one from another site"
        return None


def _is_own(origin: str, host: str) -> bool:
    """Whether a page's origin is the server that the request is for."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
