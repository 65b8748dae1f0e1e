"""Guidelines as annotators read them: Markdown as safe HTML, and who has confirmed which version."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from generator.output import InputError
from labeling_app.store.guidelines import EXAMPLE_ADDRESS, guidelines
from labeling_app.store.store import Store
from labeling_app.store.tables import Acknowledgement, Guidelines, User
from labeling_app.tasks.lease import Refused

_VERSIONS = select(
    select(func.max(Guidelines.version))
    .where(Guidelines.campaign_id == bindparam("campaign"))
    .scalar_subquery(),
    select(func.max(Acknowledgement.version))
    .where(Acknowledgement.campaign_id == bindparam("campaign"), Acknowledgement.user_id == bindparam("user"))
    .scalar_subquery(),
)


class GuidelinesUnread(Refused):
    """Tasks of a campaign wait until its guidelines are acknowledged.

    Attributes:
        campaign: its name.
    """

    def __init__(self, campaign: str) -> None:
        super().__init__(f"Read the guidelines of the campaign {campaign} first.")
        self.campaign = campaign


def is_unread(session: Session, user_id: int, campaign_id: int) -> bool:
    """Returns whether a campaign has guidelines whose newest version the user has not acknowledged."""
    newest, read = session.execute(_VERSIONS, {"campaign": campaign_id, "user": user_id}).one()
    return newest is not None and newest != read


def acknowledge(store: Store, user: User, campaign: str, version: int) -> None:
    """Stores that the user has read a version of a campaign's guidelines.

    Raises:
        InputError: there is no such campaign, or this is not the newest version of its guidelines.
    """
    row = store.campaign(campaign)
    try:
        with store.write() as session:
            newest, read = session.execute(_VERSIONS, {"campaign": row.id, "user": user.id}).one()
            if version != newest:
                raise InputError("The guidelines have changed in the meantime: read the new version.")
            if read != version:
                session.add(
                    Acknowledgement(
                        campaign_id=row.id, user_id=user.id, version=version, created_at=store.clock()
                    )
                )
    except IntegrityError:
        return  # another window of the same person was first


def guidelines_for_page(store: Store, campaign: str) -> dict[str, Any]:
    """The newest guidelines of a campaign as the pages show them; version 0 where there are none.

    Raises:
        InputError: there is no such campaign.
    """
    found = guidelines(store, campaign)
    text = found.text if found else ""
    version = found.version if found else 0
    return {"campaign": campaign, "version": version, "text": text, "html": as_html(text)}


def as_html(text: str) -> str:
    """Markdown as HTML without anything active: tags in the text are shown as text, pictures become links, and links
    run no script. A picture `![caption](video:ID)` becomes an example video of the store. The page keeps of it known
    elements, links to web pages and mail addresses, and videos by their ids (`static/guidelines.js`)."""
    return str(_markdown().render(text))


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", _picture)
    return markdown


def _picture(
    renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    address, caption = str(tokens[index].attrs["src"]), escapeHtml(tokens[index].content)
    example = EXAMPLE_ADDRESS.fullmatch(address)
    if example is not None:
        return f'<video data-media="{example[1]}" title="{caption}"></video>'
    return f'<a href="{escapeHtml(address)}">{caption or escapeHtml(address)}</a>'
