"""One client over several providers."""

from ._client import FailoverClient
from ._health import Condition
from ._report import ProviderReport, Report
from ._target import OUTCOMES, RetryRule

__all__ = ["OUTCOMES", "Condition", "FailoverClient", "ProviderReport", "Report", "RetryRule"]
