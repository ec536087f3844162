"""A module for each client, named like its environment, with one class, ``make``.

``make(first, second)`` gets the origins of two services; ``stream()`` yields text and
``complete()`` returns it, both for the prompt below; ``typed()`` returns an ``Order``, and
``tools()`` the name of a function and its arguments, if the client supports them. Each is
configured with the features that it has for such faults: two retries, at most three seconds of
silence, two for a connection, and the second service after the first.
"""

from __future__ import annotations

PROMPT = "Why is the sky blue?"
KEY = "Y2xpZW50OnNlY3JldA=="
RETRIES = 2
CONNECT_S = 2.0
SILENCE_S = 3.0
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
        },
    },
}
ORDER_PROMPT = "Three bolts, please."
