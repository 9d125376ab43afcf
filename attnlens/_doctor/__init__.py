"""What works here, and what to do about what does not: versions, torchvision, devices, dtypes, attention, folders."""

from attnlens._doctor.examination import examine
from attnlens._doctor.findings import Finding, State

__all__ = ["Finding", "State", "examine"]
