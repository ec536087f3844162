"""A model's Markdown on a page that trusts what it shows."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import Completion, FinishReason
from llmproviders._markdown import harmless

ACTIVE = re.compile(r"<[A-Za-z/!?]|!\[")
OWN_TAGS = re.compile(r"</?(?:pre|code)>")

PIECES = st.sampled_from(
    [
        *("`", "``", "```", "````", "~~~", "$", "$$", r"\(", r"\)", r"\[", r"\]", "\\"),
        *("\n", "\n\n", "\r", "\r\n", " ", "    ", "\t", "- ", "1. ", "> ", "# ", "|", "*", "_"),
        *("<", ">", "<b>", "</b>", "<!--", "-->", "<?", "!", "[", "](http://e/)", "![", "&lt;"),
        *("<script>alert(1)</script>", "<img src=x onerror=y>", "a", "x<y", "html", "\x00", "\x0b"),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_nothing_acts_whatever_the_code_around_it(text: str) -> None:
    """No tag and no picture is left, also where one renderer sees code and another does not."""
    assert not ACTIVE.search(OWN_TAGS.sub("", harmless(text)))


@given(st.text(st.characters(exclude_characters="<!\r"), max_size=200))
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Markdown without tags and pictures is shown as it is; at most a fence is closed."""
    assert harmless(text).startswith(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>bold</b>", "&lt;b>bold&lt;/b>"),
        (r"\<b\>", r"&lt;b\>"),
        ("1 < 2 and a <- b", "1 < 2 and a <- b"),
        ("![logo](http://e/x.png)", "&#33;[logo](http://e/x.png)"),
        ("a `<b>` tag", "a <code>&#60;b&#62;</code> tag"),
        ("`a[b]` and `c < d`", "`a[b]` and `c < d`"),
        ("where $a<b$ holds", "where $a< b$ holds"),
        ("$$\nx<y\n$$", "$$\nx< y\n$$"),
        ("```python\nif a < b: pass\n```\n", "```python\nif a < b: pass\n```\n"),
        (
            "```html\n<b>\n\n</b>\n```\nx",
            "<pre><code>&#60;b&#62;\n\n&#60;&#47;b&#62;</code></pre>\nx",
        ),
        (
            "- x\n  ```c\n  #include <a.h>\n  ```",
            "- x\n  <pre><code>&#35;include &#60;a&#46;h&#62;</code></pre>",
        ),
        ("> ```\n> <b>\n> ```", "> <pre><code>&#60;b&#62;</code></pre>"),
        ("```html <b>\n```", "<pre><code></code></pre>"),
        ("```rust\nvec![1]\n```", "<pre><code>vec&#33;&#91;1&#93;</code></pre>"),
    ],
)
def test_what_is_written_is_what_is_read(text: str, shown: str) -> None:
    """A tag, a picture, a formula and code each show what was written."""
    assert harmless(text) == shown


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("```python\nprint(1)", "```python\nprint(1)\n```"),
        ("```python\nprint(1)\n", "```python\nprint(1)\n```"),
        ("~~~~\n~~~", "~~~~\n~~~\n~~~~"),
        ("- a\n  ```\n  b", "- a\n  ```\n  b\n  ```"),
        ("```\n<b>", "<pre><code>&#60;b&#62;</code></pre>"),
        ("```", "```\n```"),
    ],
)
def test_an_open_block_is_closed(text: str, closed: str) -> None:
    """A reply that stops inside a block of code does not take what comes after it along."""
    assert harmless(text) == closed


@pytest.mark.parametrize("text", ["`" * 9 + " ``" * 30_000 + "<b>", "$<b " * 30_000, "<" * 99_999])
def test_long_replies_take_no_longer_than_their_length(text: str) -> None:
    """Signs that open something and never close it do not make it slow: the test itself ends."""
    assert not ACTIVE.search(OWN_TAGS.sub("", harmless(text)))


def test_a_completion_shows_itself() -> None:
    """A whole reply is Markdown on a page, and its text anywhere else."""
    reply = Completion.of("**Yes** <b>", FinishReason())
    assert reply._repr_markdown_() == "**Yes** &lt;b>"
    assert str(reply) == "**Yes** <b>"
