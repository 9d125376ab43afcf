"""Is an adapter true of a model? Checks on a checkpoint, or on a tiny random model of its type."""

from attnlens.conformance.checks import CHECKS, Finding
from attnlens.conformance.report import Report, check_all, check_model, check_tiny

__all__ = ["CHECKS", "Finding", "Report", "check_all", "check_model", "check_tiny"]
