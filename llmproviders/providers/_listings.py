"""Listings in OpenAI's format: of models, of files, of vectors."""

from __future__ import annotations

from typing import Any

from .._http.decoding import expect, expect_number
from .._http.error_map import error_of
from ..results import Embedding, Usage
from ._chat_completions import decode_answer, failure_in
from ._chat_parts import whole_number

_NAMES = ("id", "name", "model", "model_name", "slug")


def parse_list(data: bytes, *fields: str) -> list[dict[str, Any]]:
    """The objects in a listing such as ``{"data": [{"id": ...}, ...]}``, or in a bare list.

    A name instead of an object is read as its ``id``, null as an empty list (unless a message is
    beside it), and an object as the list of its field names.

    Args:
        data: the body of the reply.
        fields: the fields that may hold the list; the first one present counts. Default: ``data``.

    Raises:
        LLMError: the error that the reply holds instead of a list.
        ProtocolError: the reply has no list of objects.
    """
    listing, field, nullable = decode_answer(data), "the reply", False
    failure = None
    if isinstance(listing, list):
        failure = next((e for e in listing if isinstance(e, dict) and e.get("error")), None)
    if isinstance(listing, dict):
        fields = fields or ("data",)
        field = max(fields, key=lambda name: (bool(listing.get(name)), name in listing))
        nullable = field in listing
        if not listing.get(field):
            failure = failure_in(listing, whole=listing.get(field) is None)
        listing = listing.get(field)
    if failure is not None:
        raise error_of(failure)
    if isinstance(listing, dict) and listing:
        inner = next((listing[name] for name in fields if name in listing), None)
        listing = list(listing) if inner is None else inner
    return [
        {"id": item} if isinstance(item, str) else expect(item, dict, field)
        for item in expect(listing, list, field, optional=nullable)
        if item is not None
    ]


def parse_embeddings(entries: list[dict[str, Any]]) -> list[Embedding]:
    """The vectors of a listing of ``/embeddings``, in the order of the texts."""
    in_order = [entry for _, entry in sorted(enumerate(entries), key=_place)]
    return [Embedding(_vector(entry), _tokens_of(entry)) for entry in in_order]


def _place(numbered: tuple[int, Any]) -> int:
    """The index of an entry, or its position if it has none."""
    position, entry = numbered
    index = whole_number(expect(entry, dict, "data").get("index"))
    return position if index is None else index


def _vector(entry: dict[str, Any]) -> list[float]:
    vector = expect(entry.get("embedding"), list, "embedding")
    return [expect_number(number, "embedding") for number in vector]


def _tokens_of(entry: dict[str, Any]) -> int | None:
    usage = Usage.from_json(entry.get("usage"))
    return None if usage is None else usage.prompt_tokens


def parse_models(data: bytes) -> list[dict[str, Any]]:
    """The models of a listing, each with its name as ``id``.

    Servers send ``{"data": [{"id": ...}]}``, ``{"models": [{"name": ...}]}`` or a bare list;
    errors as for :func:`parse_list`.
    """
    models: dict[str, dict[str, Any]] = {}
    for model in parse_list(data, "data", "models", "result"):
        name = next((n for field in _NAMES if isinstance(n := model.get(field), str)), None)
        if name:
            models.setdefault(name, {**model, "id": name})
    return list(models.values())
