"""The providers whose services the sandbox plays; a provider need not be one of them."""

from __future__ import annotations

from llmproviders import Provider
from llmproviders.providers import REGISTRY
from llmproviders.sandbox._names import is_service

SERVED: dict[str, type[Provider]] = {
    name: kind for name, kind in REGISTRY.items() if is_service(name)
}
