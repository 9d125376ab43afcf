"""A loaded model, what it has read, and its trace."""

# ruff: noqa: E402 - a version out of range, or a broken torchvision, is told before the imports below trip over it
from attnlens import torchvision_check, versions

versions.require()
torchvision_check.require()

from attnlens.lens.cost import Cost
from attnlens.lens.lens import Lens
from attnlens.lens.loading import load
from attnlens.lens.reading import Answer, Reading
from attnlens.lens.trace import Trace

__all__ = ["Answer", "Cost", "Lens", "Reading", "Trace", "load"]
