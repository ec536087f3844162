"""One client over several providers."""

from ._client import FailoverClient
from ._health import Condition
from ._outcomes import OUTCOMES, RetryRule
from ._report import ProviderReport, Report

__all__ = ["OUTCOMES", "Condition", "FailoverClient", "ProviderReport", "Report", "RetryRule"]
