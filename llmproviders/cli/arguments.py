"""Arguments and names of files in UTF-8, whatever encoding the locale names."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

import click

from .exits import CommandError, Exit

_NOT_ASCII = re.compile("[^\0-\x7f]+")


def decoded(argument: str) -> str:
    """An argument of this process; bytes that are not UTF-8 become lone surrogates."""
    with suppress(UnicodeEncodeError):
        return os.fsencode(argument).decode("utf-8", "surrogateescape")
    return argument  # not of this process


def path_of(text: str) -> str:
    """A path as Python's functions take it, which encode it as the locale says."""
    with suppress(UnicodeEncodeError):
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    return text  # no file can have this name


def shown(text: str) -> str:
    """Text with its paths as they were given.

    What is not from a path stays: encoded as the locale says, it is not UTF-8.
    """
    return _NOT_ASCII.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    with suppress(UnicodeError):
        return os.fsencode(found.group()).decode("utf-8")
    return found.group()


class Text(click.types.StringParamType):
    """A text, which has to be UTF-8."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text."""
        text = str(value)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            at = len(text[: error.start].encode("utf-8"))
            self.fail(f"it is not UTF-8 (byte {at}).", param, ctx)
        return text


class File(click.Path):
    """A path, as Python's functions take it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        try:
            return super().convert(path_of(value), param, ctx)
        except click.BadParameter as error:
            # The command was typed as it should be.
            raise CommandError(error.message, Exit.USAGE) from error


TEXT = Text()

FILE = File()
