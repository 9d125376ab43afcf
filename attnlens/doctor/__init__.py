"""What works here, and what to do about what does not: versions, torchvision, devices, dtypes, attention, folders."""

from attnlens.doctor._examination import examine
from attnlens.doctor._findings import Finding

__all__ = ["Finding", "examine"]
