"""The documents say what the code says."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import get_args

import click
import gigachat
import pytest

import llmproviders
from llmproviders import FailoverClient, GigaChat, OpenAICompatible, Provider
from llmproviders._request import Params
from llmproviders.cli.group import group
from llmproviders.config._arguments import arguments_of
from llmproviders.providers import REGISTRY
from tests.support.served import SERVED

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md")) + sorted(ROOT.glob("*.md"))
PAGE_IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]


def prose(path: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return _without_blocks(path.read_text(encoding="utf-8"))


def _without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_fresh() -> None:
    """What a page shows of the code is what the code has now (``python docs/tables.py``)."""
    tables = _tables()
    for page in {page for page, _ in tables.TABLES}:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert tables.filled(page, text) == text, f"run python docs/tables.py for {page}"


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("README.md", "| `ChatGLM` | chatglm.cn |  | no | yes |\n"),
        ("README.ru.md", "| `ChatGLM` | chatglm.cn |  | нет | да |\n"),
    ],
)
def test_a_new_provider_gets_its_row(name: str, added: str) -> None:
    """A provider without a row in a README is given one, and the rows that are there stay."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert _tables().with_every_service(name, text) == text
    without, count = re.subn(r"^\| `ChatGLM` \|.*\n", "", text, flags=re.MULTILINE)
    assert count == 1
    filled = _tables().with_every_service(name, without)
    assert filled.replace(added, "") == without
    assert filled.count(added) == 1


@pytest.mark.parametrize("name", [kind.__name__ for kind in SERVED.values()])
def test_every_provider_has_its_section(name: str) -> None:
    """The reference tells wire format, limits and last known state of what the sandbox plays."""
    text = (DOCS / "reference" / "providers.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    for topic in ("Request", "Reply", "Ends", "Limits", "Last known to work"):
        assert f"**{topic}" in section[1], topic


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link in a page names a file that exists, and a heading that it has."""
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(path)):
        if "://" not in target:
            name, _, heading = target.partition("#")
            page = path.parent / name if name else path
            assert page.exists(), target
            assert not heading or heading in anchors(page), target


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_door_leads_to_every_page() -> None:
    """From the README each page of the documents is one link away."""
    readme = prose(ROOT / "README.md")
    pages = {path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")} - {"docs/index.md"}
    assert {page for page in pages if f"({page})" not in readme} == set()


@pytest.mark.parametrize("name", ["README.md", "README.ru.md"])
def test_the_services_of_the_front_door(name: str) -> None:
    """The table of services has what the registry has: which there are, their keys, their state."""
    row = re.compile(r"^\| `(\w+)` \|.*\| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
    rows = row.findall(prose(ROOT / name))
    classes = {cls.__name__ for cls in REGISTRY.values()}
    assert {row[0] for row in rows} == classes, "run python docs/tables.py"
    for cls in REGISTRY.values():
        [(key, working)] = [row[1:] for row in rows if row[0] == cls.__name__]
        variables = cls.environment_of("api_key")
        assert re.findall(r"`(\w+)`", key) == [*variables], cls
        assert working.startswith(("yes", "да")) is cls.working, cls


# conftest.py runs blocks of these languages, and test_notebooks_run.py the page with IPython.
RUN = {"console", "ipython", "output", "python", "toml"}
# Changes the reader's machine, or is no code: the commands in it are looked up.
READ = {"ini", "sh", "text"}


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_a_link_is_one_wherever_the_page_is_read(path: Path) -> None:
    """Readers of the README open the pages as files, where Sphinx's roles are not rendered."""
    if path != DOCS / "index.md":
        assert "{doc}" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_every_block_is_run_or_looked_at(path: Path) -> None:
    """No block is in a language that nothing runs or checks."""
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
    assert all(fence == "" for fence in fences[1::2])
    languages = {fence for fence in fences[::2] if not fence.startswith("{")}
    assert languages <= RUN | READ


@pytest.mark.parametrize("path", PAGES, ids=PAGE_IDS)
def test_the_commands_in_text_are_there(path: Path) -> None:
    """Each command and option that a page names, in a sentence or in a block, is one there is."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for name, block in blocks if name in READ for line in _joined(block)]
    lines += re.findall(r"`([^`]+)`", prose(path))
    if path.name == "cli.md":
        lines = [line for line in lines if not line.startswith("Usage")]
    for line in lines:
        for words in re.findall(r"(?:^|[\s/(])llmproviders ((?:[\w-]| )[^|;&<>)]*)", line):
            _look_up(shlex.split(words.replace("\n", " "), comments=True))


def _joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def _look_up(words: list[str]) -> None:
    """Look for the command and the options of a command line."""
    context = click.Context(group, info_name="llmproviders")
    command: click.Command = group
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        if words[0].isupper():  # COMMAND stands for any
            return
        found = command.get_command(context, words.pop(0))
        assert found is not None, words
        command = found
    there = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for word in words:
        if re.fullmatch(r"--?[a-zA-Z][\w-]*(=.*)?", word):
            assert word.partition("=")[0] in there | {"--help", "-h"}, (command.name, word)


MIGRATIONS = sorted((DOCS / "how-to").glob("migrate*.md"))


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_the_tables_for_those_who_come_from_elsewhere(path: Path) -> None:
    """What stands under *after* is there, and so is each method of gigachat's under *before*."""
    rows = re.findall(r"^\| (.*`.*) \| (.*) \|$", prose(path), re.MULTILINE)
    assert len(rows) > 8
    ours = {"giga": GigaChat, "client": FailoverClient, "provider": Provider | OpenAICompatible}
    known = {name for cls in (GigaChat, FailoverClient) for name in arguments_of(cls)}
    known |= {
        "model",
        "timeout",
        "proxy",
        "providers",
        "session",
        "stream",
        "tools",
        "max_turns",
        "on_tool",
        "base_url",
        *Params.__annotations__,
    }
    for before, after in rows:
        for method in re.findall(r"giga\.(\w+)\(", before):
            assert hasattr(gigachat.GigaChat, method), before
        for owner, method in re.findall(r"\b(giga|client|provider)\.(\w+)\(", after):
            assert any(hasattr(cls, method) for cls in get_args(ours[owner]) or [ours[owner]]), (
                after
            )
        for name in re.findall(r"llmproviders\.(\w+)", after):
            assert hasattr(llmproviders, name), after
        for name in re.findall(r"`([A-Z][A-Za-z]+(?:Error|Failed|Timeout|Exceeded))`", after):
            assert hasattr(llmproviders, name), after
        assert set(re.findall(r"[(`, ](\w+)=", after)) <= known, after


@pytest.mark.parametrize(
    ("english", "russian"),
    [("README.md", "README.ru.md"), ("docs/how-to/gigachat.md", "docs/how-to/gigachat.ru.md")],
)
def test_the_russian_pages_keep_up(english: str, russian: str) -> None:
    """A page that exists in Russian has the same sections, links, code and commands."""
    originals, translations = (
        (ROOT / name).read_text(encoding="utf-8") for name in (english, russian)
    )
    assert _outline(originals) == _outline(translations)
    assert _code(originals) == _code(translations)
    assert _named(originals) == _named(translations)


def _outline(text: str) -> list[str]:
    return re.findall(r"^(#+) ", _without_blocks(text), re.MULTILINE)


def _named(text: str) -> set[str]:
    """Return what a page names in code and links to, but for the same page in another language."""
    text = _without_blocks(text)
    code = {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}
    return code | set(re.findall(r"\]\(((?!README)[^)]+)\)", text))


def _code(text: str) -> list[str]:
    """Return the blocks of code without what is said in words: strings, comments, output."""
    found = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "console":
            block = "\n".join(re.findall(r"^(?:\$|    ).*", block, re.MULTILINE))
        if language in ("console", "python", "sh", "text"):
            block = re.sub(r"#.*", "", re.sub(r'"[^"\n]*"', '""', block))
            found.append(" ".join(block.split()))
    return found
