"""Around the whole app: security headers, no posts from elsewhere, the login page for who is not logged in."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import urlsplit, urlunsplit

from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_app.campaigns.transcoding import MAXIMUM_BYTES
from labeling_app.web.access import LEADS, Access

PAGE, DEMONSTRATE, LEAD = "/rank", "/demonstrate", "/lead"
LARGEST_BODY = 1_000_000
UPLOADS = "/api/demonstrations/uploads"
CONTENT_SECURITY_POLICY = (
    # Gradio compiles its templates in the browser, which needs 'unsafe-eval'.
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors "
)
GRADIO_FILES = re.compile(r"/+(gradio_api/+)?(file|proxy)=")


class Guard:
    """Middleware around everything.

    The mounted Gradio page only shows; it has no events and no files. So nothing but reading reaches it. Redirects are
    made relative, because behind a proxy the app does not know under which path, or by which name, browsers see it.

    Args:
        framed_by: sites that may show the pages within theirs.
    """

    def __init__(self, app: ASGIApp, access: Access, framed_by: str = "'none'") -> None:
        self.app = app
        self.access = access
        self.framed_by = framed_by

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["content-security-policy"] = CONTENT_SECURITY_POLICY + self.framed_by
                headers["referrer-policy"] = "same-origin"
                headers.setdefault("cache-control", "no-store")
                if "location" in headers:
                    headers["location"] = relative_location(
                        headers["location"], scope["path"], Headers(scope=scope).get("host", "")
                    )
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        if method not in ("GET", "HEAD"):
            if (reason := _foreign(headers)) is not None:
                return JSONResponse({"message": reason}, 403)
            length = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
            largest = MAXIMUM_BYTES if path == UPLOADS else LARGEST_BODY
            if not length.isdecimal() or int(length) > largest:
                return JSONResponse({"message": "The request is too large."}, 413)
        for page in (PAGE, DEMONSTRATE, LEAD):
            if path != page and not path.startswith(f"{page}/"):
                continue
            inner = path.removeprefix(page)
            if method not in ("GET", "HEAD") or GRADIO_FILES.match(inner):
                return JSONResponse({"message": "There is nothing here."}, 404)
            if inner in ("", "/"):
                user = self.access.user(HTTPConnection(scope))
                if user is None:
                    return RedirectResponse("/login", 303)
                if page == LEAD and user.role not in LEADS:
                    return RedirectResponse(f"{PAGE}/", 303)
        return None


def relative_location(location: str, path: str, host: str) -> str:
    """An address of this app as seen from a path of it; one of another site stays as it is.

    Args:
        location: absolute, with or without the name of the server, or relative already.
        path: path of the request that is answered.
        host: name and port in the request, by which absolute addresses of this app are known.
    """
    _, netloc, target, query, fragment = urlsplit(location)
    if not target.startswith("/") or netloc not in ("", host):
        return location
    folder = path.rpartition("/")[0] or "/"
    relative = posixpath.relpath(target, folder)
    if target.endswith("/") and not relative.endswith("/"):
        relative += "/"
    return urlunsplit(("", "", relative, query, fragment))


def _foreign(headers: Headers) -> str | None:
    """One sentence where a request was made by the page of another site."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return (
            f"Requests from other sites are refused: the page is of {origin[:200]!r}, but the request is for the host "
            f"{host[:200]!r}; a proxy in between must pass the name on (nginx: proxy_set_header Host $http_host)."
        )
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "Requests from other sites are refused."
    return None
