"""Writes the tables in the documents that come from the code: ``python docs/tables.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from llmproviders.providers import REGISTRY

DOCS = Path(__file__).parent


def providers() -> str:
    """What there is to know of each provider at a glance."""
    rows = [
        "| class | address | `working` | key | system messages | history | default model |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cls in REGISTRY.values():
        row = (
            f"`{cls.__name__}`",
            cls.url,
            _yes(cls.working),
            "needed" if cls.needs_auth else "none, or the server's",
            _yes(cls.supports_system_message),
            _yes(cls.supports_message_history),
            f"`{cls.default_model}`",
        )
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def models() -> str:
    """The models and their aliases, provider by provider."""
    lines = []
    for cls in REGISTRY.values():
        names = ", ".join(f"`{name}`" for name in tuple(cls.models))
        more = "; any other name is passed on" if cls.open_catalogue else ""
        lines.append(f"- `{cls.__name__}`: {names}{more}")
        lines += [f"  - `{alias}` means `{name}`" for alias, name in cls.model_aliases.items()]
    return "\n".join(lines)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("reference/providers.md", "providers"): providers,
    ("reference/providers.md", "models"): models,
}


def filled(page: str, text: str) -> str:
    """``text`` of ``page`` with each of its tables as the code has it now."""
    for (of_page, name), make in TABLES.items():
        if of_page == page:
            between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            if not between.search(text):
                raise ValueError(f"{page} has no place for {name}")
            text = between.sub(lambda found: found[1] + make() + "\n" + found[2], text)  # noqa: B023
    return text


def main() -> None:
    """Fill every page."""
    for page in {page for page, _ in TABLES}:
        path = DOCS / page
        path.write_text(filled(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
