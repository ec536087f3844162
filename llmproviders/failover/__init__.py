"""One client over several providers."""

from ._client import FailoverClient
from ._health import Condition
from ._report import ProviderReport, Report

__all__ = ["Condition", "FailoverClient", "ProviderReport", "Report"]
