"""Writes the tables in the documentation that come from the code: ``python docs/tables.py``."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from llmproviders import FailoverClient, Provider, errors
from llmproviders._http.error_map import class_of_status
from llmproviders._http.error_rules import BY_STATUS, RULES, SAID_BY_STATUS, STATUS_OF_CODE
from llmproviders.cli.exits import MEANING
from llmproviders.cli.group import CONTEXT, PROGRAM, group
from llmproviders.cli.overview import COMMANDS
from llmproviders.config import variables_of
from llmproviders.config._arguments import Argument, arguments_of
from llmproviders.providers import REGISTRY
from llmproviders.providers._finish_words import FAILED_WORDS, FINISH_WORDS, NO_WORDS

DOCS = Path(__file__).parent


def providers() -> str:
    """The overview of all providers."""
    rows = [
        "| class | address | `working` | key | system | history | default model |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cls in REGISTRY.values():
        row = (
            f"`{cls.__name__}`",
            cls.url.removeprefix("https://"),
            _yes(cls.working),
            _key(cls),
            _yes(cls.supports_system_message),
            _yes(cls.supports_message_history),
            f"`{cls.default_model}`",
        )
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def _key(cls: type[Provider]) -> str:
    if cls.needs_auth:
        return "needed"
    return "the server's" if "api_key" in arguments_of(cls) else "none"


def models() -> str:
    """The models and their aliases, provider by provider."""
    lines = []
    for cls in REGISTRY.values():
        names = ", ".join(f"`{name}`" for name in tuple(cls.models))
        more = "; any other name is passed on" if cls.open_catalogue else ""
        lines.append(f"- `{cls.__name__}`: {names}{more}")
        lines += [f"  - `{alias}` means `{name}`" for alias, name in cls.model_aliases.items()]
    return "\n".join(lines)


def commands() -> str:
    """The help of every command, as it is printed at a width of 88 columns."""
    top = click.Context(group, info_name=PROGRAM, **CONTEXT)
    pages = []
    for name in COMMANDS:
        command = group.get_command(top, name)
        assert command is not None
        pages += _helps(command, name, top)
    return "\n\n".join(pages)


def _helps(command: click.Command, name: str, parent: click.Context) -> list[str]:
    context = click.Context(command, parent=parent, info_name=name, terminal_width=86)
    words = context.command_path.removeprefix(f"{PROGRAM} ")
    level = "#" * (2 + len(words.split()))
    pages = [f"{level} {words}\n\n```text\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for inner in sorted(command.commands):
            pages += _helps(command.commands[inner], inner, context)
    return pages


def exit_codes() -> str:
    """Every exit code and its meaning."""
    rows = [f"| {int(code)} | {meaning} |" for code, meaning in MEANING.items()]
    return "\n".join(["| code | when |", "| --- | --- |", *rows])


def finish_words() -> str:
    """The services' words for each finish reason, and for a failed reply."""
    rows = ["| `reason` | words of services, in any case |", "| --- | --- |"]
    rows += [f"| `{reason}` | {_words(words)} |" for reason, words in FINISH_WORDS.items()]
    rows.append("| `other` | any other word; it is in `raw`, and is logged once |")
    failed = f"{_words(FAILED_WORDS)}, and any other that ends in `error`"
    rows.append(f"| an error: the reply failed | {failed} |")
    rows.append(f"| none: the reply goes on | nothing, {_words(filter(None, NO_WORDS))} |")
    return "\n".join(rows)


def _words(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def every_provider() -> str:
    """The keys that every provider's table has."""
    return _keys(Provider, shared_arguments())


def some_providers() -> str:
    """The keys that only one provider's table has, by provider."""
    sections = []
    for kind in REGISTRY.values():
        own = {n: a for n, a in arguments_of(kind).items() if n not in shared_arguments()}
        if own:
            sections.append(f"`{kind.__name__}` also:\n\n{_keys(kind, own)}")
    return "\n\n".join(sections)


def failover() -> str:
    """The keys of ``[failover]``."""
    return _keys(FailoverClient, arguments_of(FailoverClient))


def shared_arguments() -> dict[str, Argument]:
    """The arguments of every provider."""
    return {
        name: argument
        for name, argument in arguments_of(Provider).items()
        if all(name in arguments_of(kind) for kind in REGISTRY.values())
    }


def _keys(owner: type, arguments: Mapping[str, Argument]) -> str:
    meanings = _meanings(owner)
    rows = ["| key | value | default | means |", "| --- | --- | --- | --- |"]
    for name, argument in arguments.items():
        default = "" if argument.default is None else f"`{json.dumps(argument.default)}`"
        if argument.secret:
            keys, due = f"`{name}_file`, `{name}_env`", "a text"
        else:
            keys, due = f"`{name}`", argument.due
        rows.append(f"| {keys} | {due} | {default} | {meanings[name]} |")
    return "\n".join(rows)


def _meanings(owner: type) -> dict[str, str]:
    """The descriptions of the arguments in the docstrings of a class and its bases."""
    meanings: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        text = inspect.cleandoc(vars(kind).get("__doc__") or "")
        section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        lines = section[1] if section else ""
        found = re.findall(r"^    (\w+): (.*?)(?=^    [\w*]|\Z)", lines, re.MULTILINE | re.DOTALL)
        meanings |= {name: " ".join(said.split()).replace("``", "`") for name, said in found}
    return meanings


def error_tree() -> str:
    """The tree of errors, as the module draws it."""
    _, drawing = inspect.cleandoc(errors.__doc__ or "").split("::\n\n")
    return f"```text\n{inspect.cleandoc(drawing)}\n```"


def error_words() -> str:
    """Services' codes and messages, and the error class of each."""
    rows = ["| error | codes | words such as | message |", "| --- | --- | --- | --- |"]
    for rule in RULES:
        codes = ", ".join(f"`{code}`" for code in sorted(rule.codes))
        words = "<br>".join(example.replace("|", "\\|") for example in rule.examples)
        rows.append(f"| `{rule.kind.__name__}` | {codes} | {words} | {rule.said} |")
    return "\n".join(rows)


def error_statuses() -> str:
    """The error class of each status, if nothing else decides."""
    rows = ["| status | error | also by the code | message |", "| --- | --- | --- | --- |"]
    for status in sorted({*BY_STATUS, *STATUS_OF_CODE.values()}):
        codes = ", ".join(f"`{code}`" for code, n in sorted(STATUS_OF_CODE.items()) if n == status)
        kind = class_of_status(status).__name__
        rows.append(f"| {status} | `{kind}` | {codes} | {SAID_BY_STATUS.get(status, '')} |")
    return "\n".join(rows)


def variables() -> str:
    """Every environment variable for a provider's argument."""
    rows = ["| variable | provider | argument |", "| --- | --- | --- |"]
    for kind in REGISTRY.values():
        for argument, names in variables_of(kind).items():
            if argument != "proxy":
                told = ", ".join(f"`{name}`" for name in names)
                rows.append(f"| {told} | `{kind.__name__}` | `{argument}` |")
    told = ", ".join(f"`{name}`" for name in Provider.environment_of("proxy"))
    return "\n".join([*rows, f"| {told} | every one | `proxy` |"])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("reference/providers.md", "providers"): providers,
    ("reference/providers.md", "models"): models,
    ("reference/outcomes.md", "finish-words"): finish_words,
    ("reference/cli.md", "commands"): commands,
    ("reference/cli.md", "exit-codes"): exit_codes,
    ("reference/configuration.md", "every-provider"): every_provider,
    ("reference/configuration.md", "some-providers"): some_providers,
    ("reference/configuration.md", "failover"): failover,
    ("reference/environment.md", "variables"): variables,
    ("reference/errors.md", "tree"): error_tree,
    ("reference/errors.md", "words"): error_words,
    ("reference/errors.md", "statuses"): error_statuses,
}


def filled(page: str, text: str) -> str:
    """``text`` of ``page`` with each of its tables updated from the code."""
    for (of_page, name), make in TABLES.items():
        if of_page == page:
            between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
            if not between.search(text):
                raise ValueError(f"{page} has no place for {name}")
            text = between.sub(lambda found: found[1] + make() + "\n" + found[2], text)  # noqa: B023
    return text


READMES = {"README.md": ("no", "yes"), "README.ru.md": ("нет", "да")}
"""Each front door, and its words for False and True."""


def with_every_service(name: str, text: str) -> str:
    """``text`` of a README, with a row in its table of services for each provider that had none.

    Existing rows are kept: they say more than the code knows.
    """
    no, yes = READMES[name]
    kinds = {cls.__name__: cls for cls in REGISTRY.values()}
    rows = re.finditer(r"^\| `(\w+)` \|.*\|\n", text, re.MULTILINE)
    ends = {row[1]: row.end() for row in rows if row[1] in kinds}
    more = ""
    for cls in (kinds[missing] for missing in kinds if missing not in ends):
        keys = ", ".join(f"`{variable}`" for variable in cls.environment_of("api_key"))
        host = cls.url.removeprefix("https://")
        working = yes if cls.working else no
        more += f"| `{cls.__name__}` | {host} |  | {keys or no} | {working} |\n"
    end = max(ends.values())
    return text[:end] + more + text[end:]


def main() -> None:
    """Fill every page."""
    for name in READMES:
        path = DOCS.parent / name
        path.write_text(
            with_every_service(name, path.read_text(encoding="utf-8")), encoding="utf-8"
        )
    for page in {page for page, _ in TABLES}:
        path = DOCS / page
        path.write_text(filled(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
