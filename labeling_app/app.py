"""The ranking page: a Gradio app whose one component is the synchronised player with the ranking below it.

The component's template is a constant. Everything that comes from data (prompts, video ids) is fetched by
`static/ranking.js` from the API and set as text, because Gradio evaluates templates as JavaScript literals.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from fastapi import FastAPI, Request

from labeling_app.models import User

LOAD_PAGE = """
import(new URL('../static/ranking.js', document.baseURI).href)
    .then((page) => page.start(element))
    .catch((error) => { element.textContent = 'The page could not be loaded: ' + error.message; });
"""
STYLESHEET = '<link rel="icon" href="data:,"><link rel="stylesheet" href="../static/ranking.css">'


def ranking_page() -> gr.Blocks:
    """The page as a Gradio app without events."""
    with gr.Blocks(title="Rank videos", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            "",
            html_template='<div class="ranking-page"></div>',
            js_on_load=LOAD_PAGE,
            apply_default_css=False,
        )
    return page


def mount_ranking_page(app: FastAPI, path: str, logged_in_user: Callable[[Request], User | None]) -> FastAPI:
    """Mounts the page for users who are logged in."""

    def user_name(request: Request) -> str | None:
        user = logged_in_user(request)
        return user.name if user else None

    return gr.mount_gradio_app(
        app,
        ranking_page(),
        path,
        auth_dependency=user_name,
        head=STYLESHEET,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=1,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
