"""A module for each client, named like its environment, with one class, ``make``.

``make(first, second)`` gets the origins of two services; ``stream()`` yields text and
``complete()`` returns it, both for the prompt below; ``typed()`` returns an ``Order``, where the
client has such a thing. Each is set up with what it offers for such
trouble: two retries, a silence of three seconds at most, two for a connection, and the second
service after the first where there is such a thing.
"""

from __future__ import annotations

PROMPT = "Why is the sky blue?"
KEY = "Y2xpZW50OnNlY3JldA=="
RETRIES = 2
CONNECT_S = 2.0
SILENCE_S = 3.0
ORDER_PROMPT = "Three bolts, please."
