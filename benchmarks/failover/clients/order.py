"""The value that every client should make of a reply."""

from __future__ import annotations

from pydantic import BaseModel


class Order(BaseModel):
    """An order."""

    item: str
    count: int
