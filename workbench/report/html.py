"""Markup that is safe by default: text is escaped unless it is `Html` already; and the frame of the page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TypeAlias

from workbench.report.style import css_variables

ASSETS = Path(__file__).parent / "assets"
VOID = ("br", "img", "input", "meta", "hr", "col")


class Html(str):
    """Text that is markup, made by `element`, and is not escaped again."""


Content: TypeAlias = "str | float | int | Iterable[Content] | None"


def markup(content: Content) -> Html:
    """`content` as markup: text is escaped, `Html` is kept, None is nothing, sequences are joined."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, (str, int, float)):
        return Html(html.escape(str(content), quote=True))
    return Html("".join(markup(part) for part in content))


def element(name: str, *content: Content, **attributes: object) -> Html:
    """One element: ``element("a", "text", href="#x", class_="y")``.

    A trailing underscore in an attribute's name is dropped, others become hyphens. True writes the bare attribute;
    None and False write nothing.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{markup(content)}</{name}>")


def _attribute(key: str, value: object) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {key}" if value is True else f' {key}="{html.escape(str(value), quote=True)}"'


def table(
    head: Sequence[Content], rows: Iterable[Sequence[Content]], caption: Content = None, **attributes: object
) -> Html:
    """A table whose first column heads its rows, in a box that scrolls sideways on a narrow screen."""
    body = [element("tr", element("th", row[0], scope="row"), *(cell(c) for c in row[1:])) for row in rows]
    top = element("tr", *(element("th", title, scope="col") for title in head))
    parts = [element("caption", caption) if caption else None, element("thead", top), element("tbody", body)]
    return element("div", element("table", parts, **attributes), class_="scroll", tabindex="0")


def cell(content: Content) -> Html:
    """A table cell; one that is made already (``<td``) is kept."""
    if isinstance(content, Html) and content.startswith("<td"):
        return content
    return element("td", content)


def details(summary: Content, *content: Content, open_: bool = False) -> Html:
    """A part that the reader unfolds."""
    return element("details", element("summary", summary), *content, open=open_)


def definitions(pairs: Iterable[tuple[Content, Content]], **attributes: object) -> Html:
    """A list of terms and what they are."""
    return element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in pairs), **attributes)


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        anchor: its id.
        title: its heading.
        body: its markup.
        present: whether there is anything to show; otherwise `body` says which command makes it.
    """

    anchor: str
    title: str
    body: Html
    present: bool = True

    def html(self) -> Html:
        """The section as markup."""
        return element("section", element("h2", self.title), self.body, id=self.anchor)


def absent(anchor: str, title: str, *reason: Content) -> Section:
    """A section that is left out, with one line that says how to get it."""
    return Section(anchor, title, element("p", *reason, class_="absent"), present=False)


def document(title: str, header: Html, sections: Sequence[Section], footer: Html) -> str:
    """The whole page, with style and script inside it."""
    links = [
        element("li", element("a", s.title, href=f"#{s.anchor}"), class_=None if s.present else "without")
        for s in sections
    ]
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=markup(title),
        style=css_variables() + (ASSETS / "page.css").read_text(encoding="utf-8"),
        script=(ASSETS / "page.js").read_text(encoding="utf-8"),
        header=header,
        contents=element("ol", links),
        sections="\n".join(section.html() for section in sections),
        footer=footer,
    )


_YAML_TOKEN = re.compile(
    r"""(?P<s>"[^"]*"|'[^']*')|(?P<i>(?:^|(?<=\s))\#.*)|(?P<b>[A-Za-z_][\w./-]*(?=:(?:\s|$)))"""
    r"""|(?P<em>(?<![\w./-])[-+]?\d[\d_.]*(?:[eE][-+]?\d+)?(?![\w./-])|\b(?:true|false|null)\b)"""
)


def yaml_block(text: str) -> Html:
    """YAML with keys (``b``), numbers (``em``), quoted text (``s``) and comments (``i``) marked."""
    lines = [(_yaml_line(line), "\n") for line in text.splitlines()]
    return element("pre", element("code", lines), class_="yaml", tabindex="0")


def _yaml_line(line: str) -> Html:
    parts: list[Content] = []
    end = 0
    for match in _YAML_TOKEN.finditer(line):
        parts += [line[end : match.start()], element(str(match.lastgroup), match[0])]
        end = match.end()
    return markup([*parts, line[end:]])
