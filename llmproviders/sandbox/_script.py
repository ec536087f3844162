"""The sandbox's own replies: a text for each conversation, split into pieces.

Some phrases in the last user message ask for more than text:

- ``think``: a train of thought comes first, if the service sends thoughts
- ``call the tool``: a call of the first tool or function that the request offers
- ``trip the filter``: the service's filter stops the reply after three pieces;
  ``trip the filter at once``: before the first
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmproviders.sandbox._settings import Message, ReplyText

_QUOTED_LENGTH = 80

_FILTERED_PIECES = 3

_PIECE = re.compile(r"\s*\S{1,16}|\s+")

_ROLES = "System|Developer|User|Assistant|Tool|Function"

_FOLDED_USER = re.compile(
    rf"(?:^|\n)User: (.*?)(?=\n(?:{_ROLES}): |\nAssistant:\s*$)", flags=re.DOTALL
)

_THOUGHT = "The question is short, so the answer can be short as well."


@dataclass(frozen=True)
class ScriptedReply:
    """A reply set with :meth:`Sandbox.reply`, with the same fields."""

    text: str | None = None
    tool_calls: Sequence[dict[str, Any]] = ()
    reasoning: str | None = None
    finish: str = "stop"
    usage: dict[str, int] | None = None


WRONG_JSON = ScriptedReply('{"wrong": "JSON",}')

FINISHES = {"stop": "stop", "length": "length", "content_filter": "filter"}
"""`FinishReason.reason` to `Script.finish`."""


@dataclass(frozen=True)
class Script:
    """One reply to come; `finish` is ``"stop"``, ``"length"`` or ``"filter"``.

    `calls` are those that a scripted reply makes, each with `name` and `arguments`, an object.
    """

    pieces: list[str]
    finish: str
    prompt_words: int
    thought: list[str] = field(default_factory=list)
    calls: Sequence[dict[str, Any]] = ()
    scripted_usage: dict[str, int] | None = None

    @property
    def text(self) -> str:
        """The text of all pieces."""
        return "".join(self.pieces)

    @property
    def usage(self) -> dict[str, int]:
        """The count of tokens, one for each word unless the reply was scripted otherwise."""
        if self.scripted_usage is not None:
            return self.scripted_usage
        answer = len(self.pieces) + len(self.thought)
        return {
            "prompt_tokens": self.prompt_words,
            "completion_tokens": answer,
            "total_tokens": self.prompt_words + answer,
        }


def write_script(
    reply: ReplyText | ScriptedReply,
    service_title: str,
    messages: list[Message],
    *,
    empty: bool = False,
    max_tokens: int | None = None,
    stop: list[str] | None = None,
) -> Script:
    """Return the reply to a conversation, the same for the same words."""
    question = last_user_text(messages)
    prompt_words = sum(count_words(message["content"]) for message in messages)
    if isinstance(reply, ScriptedReply) and not empty:
        text = reply.text
        if text is None:
            text = "" if reply.tool_calls else _own_words(service_title, question)
        return Script(
            pieces=split_pieces(text),
            finish=FINISHES.get(reply.finish, "stop"),
            prompt_words=prompt_words,
            thought=split_pieces(reply.reasoning or ""),
            calls=reply.tool_calls,
            scripted_usage=reply.usage,
        )
    if empty:
        text = ""
    elif reply is None or isinstance(reply, ScriptedReply):
        text = _own_words(service_title, question)
    else:
        text = reply if isinstance(reply, str) else reply(messages)
    for mark in filter(None, stop or ()):
        text = text.partition(mark)[0]
    pieces = split_pieces(text)
    finish = "stop"
    asked = question.lower()
    if "trip the filter" in asked:
        pieces = pieces[: 0 if "trip the filter at once" in asked else _FILTERED_PIECES]
        finish = "filter"
    elif max_tokens is not None and len(pieces) > max_tokens:
        pieces = pieces[:max_tokens]
        finish = "length"
    return Script(
        pieces=pieces,
        finish=finish,
        prompt_words=prompt_words,
        thought=split_pieces(_THOUGHT) if re.search(r"\bthink\b", asked) else [],
    )


def _own_words(service_title: str, question: str) -> str:
    words = " ".join(question.split())
    if len(words) > _QUOTED_LENGTH:
        words = words[: _QUOTED_LENGTH - 1].rstrip() + "…"
    full_stop = "" if words.endswith((".", "!", "?", "…", "。", "？", "！")) else "."
    return (
        f"This is the {service_title} sandbox, not the real service. "
        f"You asked: {words}{full_stop} "
        "The answer is made up, always the same, and costs nothing."
    )


def last_user_text(messages: list[Message]) -> str:
    """Return the last text of the user, also from a conversation folded into one message."""
    texts = [message["content"] for message in messages if message["role"] == "user"]
    if not texts:
        return ""
    last: str = texts[-1]
    folded = _FOLDED_USER.findall(last) if last.rstrip().endswith("Assistant:") else []
    return folded[-1] if folded else last


def split_pieces(text: str) -> list[str]:
    """Return the text in pieces that join back to it, cut before the space between words.

    >>> split_pieces("one two  three ")
    ['one', ' two', '  three', ' ']
    """
    return _PIECE.findall(text)


def count_words(text: str) -> int:
    """Return how many tokens a text counts for."""
    return len(text.split())


def plain_text(content: Any) -> str | None:
    """Return the text of a message's content (a string or text items); None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    for item in content:
        text = item.get("text") if isinstance(item, dict) and item.get("type") == "text" else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)
