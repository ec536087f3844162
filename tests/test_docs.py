"""The documents say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from llmproviders.providers import REGISTRY

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


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


@pytest.mark.parametrize("name", [cls.__name__ for cls in REGISTRY.values()])
def test_every_provider_has_its_section(name: str) -> None:
    """Each provider's wire format, limits and last known state are in the reference."""
    text = (DOCS / "reference" / "providers.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    for topic in ("Request", "Reply", "Ends", "Limits", "Last known to work"):
        assert f"**{topic}" in section[1], topic


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")) + sorted(ROOT.glob("*.md")))
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link in a page names a file that exists."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_examples_of_troubleshooting_are_messages() -> None:
    """Each heading of the troubleshooting page is part of a message that the code can give."""
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "llmproviders").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for heading in headings:
        words = re.split(r"GigaChat |https://\S+|data-nonce", heading)
        for part in (word.strip() for word in words):
            assert part in source, heading


@pytest.mark.parametrize(
    ("english", "russian"),
    [("README.md", "README.ru.md"), ("docs/how-to/gigachat.md", "docs/how-to/gigachat.ru.md")],
)
def test_the_russian_pages_keep_up(english: str, russian: str) -> None:
    """A page that exists in Russian has the same sections, the same code and the same commands."""
    originals, translations = (
        (ROOT / name).read_text(encoding="utf-8") for name in (english, russian)
    )
    assert _outline(originals) == _outline(translations)
    assert _code(originals) == _code(translations)


def _outline(text: str) -> list[str]:
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"^(#+) ", text, re.MULTILINE)


def _code(text: str) -> list[str]:
    """Return the blocks of code without what is said in words: strings, comments, output."""
    found = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if language == "console":
            block = "\n".join(re.findall(r"^(?:\$|    ).*", block, re.MULTILINE))
        if language in ("console", "python", "sh"):
            block = re.sub(r"#.*", "", re.sub(r'"[^"\n]*"', '""', block))
            found.append(" ".join(block.split()))
    return found
