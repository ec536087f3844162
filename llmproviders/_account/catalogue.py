"""The models of a service: known names, and a way to ask for the current list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Lister(Protocol):
    """Can list its models, as a provider can."""

    def list_models(self) -> list[str]:
        """The names of the available models."""


class ModelNames(tuple[str, ...]):
    """Names of models; calling it asks the service for its current list."""

    ask: Callable[[], list[str]]

    def __call__(self) -> list[str]:
        return self.ask()


class Catalogue:
    """The class attribute ``models`` of a provider whose service can list its models.

    On the class it is the tuple of known names; on an instance it can be called as well.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, instance: Lister | None, owner: type[Lister]) -> ModelNames:
        names = ModelNames(self._names)
        names.ask = owner.list_models if instance is None else instance.list_models  # type: ignore[assignment]
        return names
