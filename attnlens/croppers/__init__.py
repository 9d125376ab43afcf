"""Crops chosen from outside the MLLM: by CLIP, a detector, a segmenter, or a function of your own.

They are the external tools that ViCrop is compared with (arXiv 2502.17422, table 4 and appendix F). A cropper is called
with an image and a question and gives boxes, best first; models are transformers' own.
"""

from typing import TYPE_CHECKING

from attnlens._renamed import names
from attnlens.croppers._cropping import Cropper, Proposer, Scorer, clip, external, rank_regions
from attnlens.croppers._detector import detector
from attnlens.croppers._scorer import clip_scorer
from attnlens.croppers._segmenter import segmenter

__all__ = ["Cropper", "Proposer", "Scorer", "clip", "clip_scorer", "detector", "external", "rank_regions", "segmenter"]

if not TYPE_CHECKING:
    __getattr__ = names(__name__, Regions="Proposer", ranked="rank_regions")
