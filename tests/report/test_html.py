"""Markup is escaped unless it is markup, and listings keep their text."""

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from workbench.report.html import Html, cell, details, element, markup, table, yaml_block

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)


@given(TEXT)
def test_text_comes_back_and_brings_no_markup(text):
    inner = element("p", text, title=text)
    assert inner.count("<") == 2 and inner.count(">") == 2
    title, content = re.fullmatch(r'<p title="([^"]*)">(.*)</p>', inner, flags=re.DOTALL).groups()
    assert html.unescape(title) == text and html.unescape(content) == text


def test_markup_is_kept_and_nested():
    assert element("b", element("i", "x"), [" & ", None, 3]) == "<b><i>x</i> &amp; 3</b>"
    assert isinstance(markup("x"), Html) and markup(None) == ""


def test_attributes():
    assert element("input", type="range", aria_label="a", hidden=True, value=None, open=False) == (
        '<input type="range" aria-label="a" hidden>'
    )
    assert element("a", "x", href="#y", class_="z") == '<a href="#y" class="z">x</a>'


def test_table_rows_have_heads():
    made = table(["a", "b"], [["x", "<"], ["y", cell(element("td", 1, class_="best"))]], "below")
    assert made.count('scope="row"') == 2 and "<td>&lt;</td>" in made and '<td class="best">1</td>' in made
    assert "<caption>below</caption>" in made
    assert details("more", "text", open_=True) == "<details open><summary>more</summary>text</details>"


@given(st.lists(TEXT, max_size=5))
def test_yaml_listing_keeps_its_text(lines):
    listing = yaml_block("\n".join(lines))
    text = html.unescape(re.sub(r"<[^>]+>", "", listing))
    assert text.splitlines() == "\n".join(lines).splitlines()


def test_yaml_listing_marks_keys_numbers_text_and_comments():
    listing = yaml_block("# why\nmodel: {width: 32, rate: 1.0e-3}  # so\nname: 'a # b'\nurl: s3://x#y\non: true")
    assert re.findall(r"<b>(.*?)</b>", listing) == ["model", "width", "rate", "name", "url", "on"]
    assert re.findall(r"<em>(.*?)</em>", listing) == ["32", "1.0e-3", "true"]
    assert re.findall(r"<i>(.*?)</i>", listing) == ["# why", "# so"]
    assert "<s>&#x27;a # b&#x27;</s>" in listing
