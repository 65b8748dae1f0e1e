"""The pages: Gradio apps whose one component is filled by a script of `static/`.

The component's template is a constant. Everything that comes from data (prompts, video ids) is fetched by the page's
script from the API and set as text, because Gradio evaluates templates as JavaScript literals.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from fastapi import FastAPI, Request

from labeling_app.store.tables import User

LOAD_PAGE = """
import(new URL('../static/{script}.js', document.baseURI).href)
    .then((page) => page.start(element))
    .catch((error) => { element.textContent = 'The page could not be loaded: ' + error.message; });
"""
STYLESHEETS = (
    '<link rel="icon" href="data:,"><link rel="stylesheet" href="../static/ranking.css">'
    '<link rel="stylesheet" href="../static/pages.css">'
)


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
        head=STYLESHEETS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=1,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
