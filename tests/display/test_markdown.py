"""A model's Markdown on a page that trusts what it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import Completion, FinishReason
from llmproviders._display.markdown import harmless

ACTIVE = re.compile(r"<[A-Za-z/!?]|!\[|\0")
OWN_TAGS = re.compile(r"</?(?:pre|code)>")

PIECES = st.sampled_from(
    [
        *("`", "``", "```", "````", "~~~", "$", "$$", r"\(", r"\)", r"\[", r"\]", "\\"),
        *("\n", "\n\n", "\r", "\r\n", " ", "    ", "\t", "- ", "1. ", "> ", "# ", "|", "*", "_"),
        *("<", ">", "<b>", "</b>", "<!--", "-->", "<?", "!", "[", "](http://e/)", "![", "&lt;"),
        *("<script>alert(1)</script>", "<img src=x onerror=y>", "a", "x<y", "html", "\x00", "\x0b"),
        *("](", "](javascript:alert(1))", "[a]: ", "JaVaScRiPt:x", "&#106;avascript:x", "&Tab;"),
        *("data:text/html,x", "http://e/", "&colon;", "&NewLine;", "java", "script:x", ")", "%3A"),
    ]
)


def _with_nbconvert(text: str) -> str:
    filters = pytest.importorskip("nbconvert.filters.markdown_mistune")
    html: str = filters.markdown2html_mistune(text)
    return html


def _with_markdown_it(text: str) -> str:
    markdown_it = pytest.importorskip("markdown_it")
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    # Its own look at links is what a page may lack.
    renderer.validateLink = lambda _: True
    html: str = renderer.render(text)
    return html


RENDERERS: dict[str, Callable[[str], str]] = {
    "nbconvert": _with_nbconvert,
    "markdown-it": _with_markdown_it,
}


class _Targets(HTMLParser):
    """Collects where the elements of a page lead to, and what they run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = ("href", "src", "action", "formaction", "srcdoc", "data", "xlink:href")
        self.found += [v or "" for name, v in attrs if name in wanted or name.startswith("on")]


def targets(html: str) -> list[str]:
    """Return where a page's links, pictures and forms lead to, as a browser reads them."""
    parser = _Targets()
    parser.feed(html)
    parser.close()
    return [
        re.sub("[\t\n\r]", "", found.strip("".join(map(chr, range(33))))) for found in parser.found
    ]


def hostile_targets(html: str) -> list[str]:
    """Return the targets whose scheme is none that a link may have."""
    schemes = ((re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", t), t) for t in targets(html))
    allowed = ("http", "https", "mailto")
    return [t for scheme, t in schemes if scheme and scheme[1].lower() not in allowed]


@given(st.lists(PIECES, max_size=40).map("".join))
def test_nothing_acts_whatever_the_code_around_it(text: str) -> None:
    """No tag and no picture is left, also where one renderer sees code and another does not."""
    shown = harmless(text)
    assert not ACTIVE.search(OWN_TAGS.sub("", shown))
    for render in RENDERERS.values():
        assert hostile_targets(render(shown)) == []


@given(st.text(st.characters(exclude_characters="<!\r]\0"), max_size=200))
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Markdown without tags, pictures and links is shown as it is; at most a fence is closed."""
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


@pytest.mark.parametrize(
    "text",
    [
        "`" * 9 + " ``" * 30_000 + "<b>",
        "$<b " * 30_000,
        "<" * 99_999,
        "](" * 50_000,
        "[a](" + " " * 99_999 + "x:y)",
        "\\" * 99_999 + "](x:y)",
        "](" + "a" * 99_999,
    ],
)
def test_long_replies_take_no_longer_than_their_length(text: str) -> None:
    """Signs that open something and never close it do not make it slow: the test itself ends."""
    assert not ACTIVE.search(OWN_TAGS.sub("", harmless(text)))


def test_a_completion_shows_itself() -> None:
    """A whole reply is Markdown on a page, and its text anywhere else."""
    reply = Completion.of("**Yes** <b>", FinishReason())
    assert reply._repr_markdown_() == "**Yes** &lt;b>"
    assert str(reply) == "**Yes** <b>"


HOSTILE_LINKS = [
    form.replace("TARGET", target)
    for form in (
        "[x](TARGET)",
        "[x]( TARGET )",
        "[x](\nTARGET\n)",
        "[x](\tTARGET 'title')",
        "[x](<TARGET>)",
        "[x](< TARGET>)",
        "[x](<\tTARGET>)",
        "![x](TARGET)",
        "![x](<TARGET>)",
        "[![x](TARGET)](TARGET)",
        "[x [y] `z`](TARGET)",
        "[x\\\\](TARGET)",
        "\\\\[x\\\\](TARGET)",
        "\\[[x](TARGET)\\]",
        "$[x](TARGET)$",
        "$[x$](TARGET)",
        "**[x](TARGET)**",
        "| a |\n|---|\n| [x](TARGET) |\n",
        "> [x](\n> TARGET)",
        "- [x](TARGET)\n",
        "[x]\n\n[x]: TARGET\n",
        "[x]\n\n[x]:\n  TARGET\n",
        "[x]\n\n[x]: <TARGET> 'title'\n",
        "> [x]\n>\n> [x]:\n> TARGET\n",
        "[x][y]\n\n[y]:TARGET\n",
        "![x][y]\n\n[y]: TARGET\n",
        "[^1]\n\n[^1]: TARGET\n",
        "[x]\n\n   [x]: TARGET",
        "<TARGET>",
        "<a href='TARGET'>x</a>",
        '<a href="TARGET">x</a>',
        "<img src=TARGET>",
        "<form action='TARGET'><button formaction='TARGET'>x</form>",
        "<svg><a xlink:href='TARGET'>x</a></svg>",
        "<iframe src='TARGET'></iframe>",
        "``[x](TARGET)`",
        "`a\n\n[x](TARGET)`",
        "```\n```\n[x](TARGET)",
        "~~~`\n[x](TARGET)\n~~~~x\n[x](TARGET)",
    )
    for target in (
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "vbscript:x",
        "data:text/html,<script>alert(1)</script>",
        "data:text/html;base64,PHNjcmlwdD4=",
        "&#106;avascript:alert(1)",
        "&#x6A;avascript:alert(1)",
        "&#0000106avascript:alert(1)",
        "javascript&#58;alert(1)",
        "javascript&colon;alert(1)",
        "java&Tab;script:alert(1)",
        "java&NewLine;script:alert(1)",
        "java&#9;script:alert(1)",
        "java&#x0d;script:alert(1)",
        "&Tab;javascript:alert(1)",
        "&#1;javascript:alert(1)",
        "&#32;javascript:alert(1)",
        "\x01javascript:alert(1)",
        "\x1fjavascript:alert(1)",
        "\u00a0javascript:alert(1)",
        "java\tscript:alert(1)",
        "java\rscript:alert(1)",
        "javascript\\:alert(1)",
        "\\javascript:alert(1)",
        "java\0script:alert(1)",
        "\0javascript:alert(1)",
        "file:///etc/passwd",
        "vscode://x",
    )
]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_no_link_runs_anything(renderer: str) -> None:
    """However a link, a picture or a tag is written, no scheme but the usual ones is left."""
    render = RENDERERS[renderer]
    left = {text: hostile_targets(render(harmless(text))) for text in HOSTILE_LINKS}
    assert {text: found for text, found in left.items() if found} == {}
    assert sum(bool(hostile_targets(render(text))) for text in HOSTILE_LINKS) > 100


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("[x](https://e/a?b=1&c=javascript:2#d)", "https://e/a?b=1&c=javascript:2#d"),
        ("[x](HTTP://e/)", "HTTP://e/"),
        ("[x](http://[::1]:8000/)", None),
        ("[x](mailto:me@example.org)", "mailto:me@example.org"),
        ("[x](page.md)", "page.md"),
        ("[x](page_(one).md)", "page_(one).md"),
        ("[x](my%20page.md 'title')", "my%20page.md"),
        ("[x](/a/b:c)", "/a/b:c"),
        ("[x](../a?b=c:d)", "../a?b=c:d"),
        ("[x](#part:two)", "#part:two"),
        ("[x](?q=a:b)", "?q=a:b"),
        ("[x](//e/a)", "//e/a"),
        ("[x]( https://e/ )", "https://e/"),
        ("[x]\n\n[x]: https://e/\n", "https://e/"),
        ("[x]\n\n[x]:\n  page.md 'title'\n", "page.md"),
        ("[документ](документ.md)", None),
    ],
)
def test_ordinary_links_stay_links(renderer: str, text: str, target: str | None) -> None:
    """http, https, mailto and relative links are left as they were written."""
    assert harmless(text) == text
    found = targets(RENDERERS[renderer](text))
    assert len(found) == 1
    assert target is None or found == [target]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[x](javascript:alert(1))", "[x&#93;(javascript:alert(1))"),
        ("![x](data:image/png;base64,AA==)", "&#33;[x&#93;(data:image/png;base64,AA==)"),
        ("[x]: javascript:y", "[x&#93;: javascript:y"),
        ("`a[i](x:y)`", "<code>a&#91;i&#93;&#40;x&#58;y&#41;</code>"),
        ("$a[i](x:y)$", "$a[i] (x:y)$"),
        (r"\[ a<b \](c:d)", r"\[ a< b \](c:d)"),
        ("```\na[i](x:y)\n```", "<pre><code>a&#91;i&#93;&#40;x&#58;y&#41;</code></pre>"),
        ("```python\nif a[0]:\n    b = {1: 2}\n```", None),
        ("[Note]: this has no link: none.", None),
        ("a[0]: 12:30", "a[0&#93;: 12:30"),
    ],
)
def test_what_was_a_link_is_read_as_it_was_written(text: str, shown: str | None) -> None:
    """A link that is none any more is shown whole; code and formulas stay what they are."""
    assert harmless(text) == (text if shown is None else shown)
