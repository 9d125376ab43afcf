"""Crops chosen from outside the MLLM: by CLIP, a detector, a segmenter, or a function of your own.

They are the external tools that ViCrop is compared with (arXiv 2502.17422, table 4 and appendix F). A cropper is called
with an image and a question and gives boxes, best first; models are transformers' own.
"""

from attnlens.croppers._cropping import Cropper, Regions, Scorer, clip, external, ranked
from attnlens.croppers._detector import detector
from attnlens.croppers._scorer import clip_scorer
from attnlens.croppers._segmenter import segmenter

__all__ = ["Cropper", "Regions", "Scorer", "clip", "clip_scorer", "detector", "external", "ranked", "segmenter"]
