"""Filling the notebook's variables into the prompt of a cell."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLACE = re.compile(r"\{\{([^\W\d]\w*)\}\}|\{([^\W\d]\w*)\}")


class MissingVariableError(LookupError):
    """A prompt names a variable that does not exist; the message says what to do."""


def fill(prompt: str, variables: Mapping[str, object]) -> str:
    """Replace each name in braces with the value of that variable.

    ``{{name}}`` becomes ``{name}``. Braces around anything but a name, such as those of JSON, stay
    as they are.

    Raises:
        MissingVariableError: there is no variable of that name.

    >>> fill('Translate {word} into {{word}}: {"a": {"b": 1}}', {"word": "sky"})
    'Translate sky into {word}: {"a": {"b": 1}}'
    """

    def value(found: re.Match[str]) -> str:
        literal, name = found.groups()
        if literal is not None:
            return f"{{{literal}}}"
        if name not in variables:
            raise MissingVariableError(
                f"the prompt has {{{name}}}, but there is no variable {name}; "
                f"define it, or write {{{{{name}}}}} for the braces themselves"
            )
        return str(variables[name])

    return _PLACE.sub(value, prompt)
