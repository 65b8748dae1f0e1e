"""The pages: Gradio apps whose one component is filled by a script of `static/`.

The component's template is a constant. Everything that comes from data (prompts, video ids) is fetched by the page's
script from the API and set as text, because Gradio evaluates templates as JavaScript literals.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Request

from labeling_app.store.tables import User

LOAD_PAGE = """
import(new URL('../static/{script}.js', document.baseURI).href)
    .then((page) => page.start(element))
    .catch((error) => { element.textContent = 'The page could not be loaded: ' + error.message; });
"""
STATIC = Path(__file__).parents[1] / "static"
STYLESHEETS = ("ranking.css", "pages.css")
_HEAD = '<link rel="icon" href="data:,">' + "".join(
    f'<link rel="stylesheet" href="../static/{name}">' for name in STYLESHEETS
)
_IMPORTED = re.compile(r"^import [^;]*?'(\.[^']+)';", re.MULTILINE)


def preloads(script: str) -> str:
    """Tags by which a browser loads a page's modules and style sheets at once, beside Gradio's own: else each module is
    found only when the one before it is there, and the first when Gradio has built the page.

    Args:
        script: as for `gradio_page`.
    """
    found = [STATIC / f"{script}.js"]
    for file in found:  # grows meanwhile
        imported = (file.parent / name for name in _IMPORTED.findall(file.read_text(encoding="utf-8")))
        found += dict.fromkeys(path.resolve() for path in imported if path.resolve() not in found)
    names = [file.resolve().relative_to(STATIC.resolve()).as_posix() for file in found]
    modules = [f'<link rel="modulepreload" href="../static/{name}">' for name in names]
    styles = [f'<link rel="preload" as="style" href="../static/{name}">' for name in STYLESHEETS]
    return "".join(modules + styles)


def gradio_page(title: str, script: str) -> gr.Blocks:
    """A page as a Gradio app without events.

    Args:
        script: name of the module in `static/` whose `start` fills the page.
    """
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            "",
            html_template='<div class="ranking-page"></div>',
            js_on_load=LOAD_PAGE.replace("{script}", script),
            apply_default_css=False,
        )
    return page


def mount_page(
    app: FastAPI, path: str, title: str, script: str, allowed_user: Callable[[Request], User | None]
) -> FastAPI:
    """Mounts a page for the users whom `allowed_user` finds in a request."""

    def user_name(request: Request) -> str | None:
        user = allowed_user(request)
        return user.name if user else None

    return gr.mount_gradio_app(
        app,
        gradio_page(title, script),
        path,
        auth_dependency=user_name,
        head=_HEAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=1,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
