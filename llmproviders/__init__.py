"""One synchronous client for several LLM services that streams and fails over."""

__version__ = "1.0.0rc1"
