"""Which layers and heads look where the answer is: attention ratios (ratio), layers ranked by them (ranking), and the
heads that look in one piece (localization), for which no box is needed."""

from attnlens.analysis._localization import localization_heads
from attnlens.analysis._ranking import Candidate, Example, Ranking, Row, rank
from attnlens.analysis._ratio import attention_ratios

__all__ = ["Candidate", "Example", "Ranking", "Row", "attention_ratios", "localization_heads", "rank"]
