"""A loaded model, what it has read, and its trace."""

from attnlens.lens.cost import Cost
from attnlens.lens.lens import Lens
from attnlens.lens.loading import load
from attnlens.lens.reading import Answer, Reading
from attnlens.lens.trace import Trace

__all__ = ["Answer", "Cost", "Lens", "Reading", "Trace", "load"]
