"""Where things lie: boxes in the original image, and the lattice of cells through which a model saw it.

Everything here is in the frame *original image*: pixels, x to the right, y down, boxes half-open. Pixel (i, j) covers
[i, i + 1) x [j, j + 1), so its centre is at (i + 0.5, j + 0.5).

>>> grid = Grid.regular(rows=2, cols=4, image_size=(400, 100))
>>> grid.cell(1, 3)
Box(x1=300.0, y1=50.0, x2=400.0, y2=100.0)
"""

from attnlens.geometry._box import Box
from attnlens.geometry._grid import Grid

__all__ = ["Box", "Grid"]
