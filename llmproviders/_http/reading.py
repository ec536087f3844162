"""Read a whole reply; an error in it gets what the reply's headers say."""

from __future__ import annotations

from contextlib import closing

from .._runtime.scope import CancelScope
from ..errors import LLMError
from .error_map import complete_error
from .types import HTTPResponse


class ReplyReader(closing[HTTPResponse]):
    """Closes a reply at the end of a ``with`` block, like ``contextlib.closing``.

    An ``LLMError`` that leaves the block gets the reply's ``Retry-After`` and request id.

    Args:
        reply: the reply.
        scope: the request that it answers.
    """

    def __init__(self, reply: HTTPResponse, scope: CancelScope) -> None:
        super().__init__(reply)
        self._reply, self._scope = reply, scope

    def __exit__(self, *failure: object) -> None:
        """Complete the error, if there is one, and close the reply."""
        if isinstance(failure[1], LLMError):
            complete_error(failure[1], self._reply, now=self._scope.clock.wall())
        super().__exit__(*failure)
