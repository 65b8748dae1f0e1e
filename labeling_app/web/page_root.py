"""Gradio's page under whatever path a proxy shows it.

Gradio writes the address by which the server was asked into the page, and the page asks there for its style sheet. The
browser alone knows under which path it sees the page, so the page takes the address from the browser instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FROM_BROWSER = 'window.gradio_config.root = new URL(".", window.location.href).href.replace(/\\/$/, "");'
_CONFIGURATION = re.compile(r"(<script>window\.gradio_config = .*?;)(</script>)", re.DOTALL)
_ROOT = re.compile(r'const root = "[^"]*";')


class PageRoot:
    """Middleware that edits the HTML of the pages at some paths.

    Args:
        paths: of the pages, each with the slash at its end, and what is put at the beginning of their heads.
    """

    def __init__(self, app: ASGIApp, paths: Mapping[str, str]) -> None:
        self.app = app
        self.paths = dict(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        began: list[Message] = []
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                began.append(message)
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                headers = MutableHeaders(scope=began[0])
                plain = "content-encoding" not in headers
                html = headers.get("content-type", "").startswith("text/html")
                content = bytes(body)
                if plain and html:
                    page = with_root_of_browser(body.decode())
                    content = page.replace("<head>", "<head>" + self.paths[scope["path"]], 1).encode()
                headers["content-length"] = str(len(content))
                await send(began[0])
                await send({"type": "http.response.body", "body": content})

        await self.app(scope, receive, collect)


def with_root_of_browser(page: str) -> str:
    """The HTML of a page of Gradio with addresses that follow from the page's own."""
    page = _CONFIGURATION.sub(lambda found: found[1] + _FROM_BROWSER + found[2], page, count=1)
    page = _ROOT.sub("const root = window.gradio_config.root;", page, count=1)
    return page.replace('href="/manifest.json"', 'href="../manifest.json"')
