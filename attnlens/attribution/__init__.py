"""Which layers and heads look where the answer is: attention ratios (ratio), and layers ranked by them (ranking)."""

from attnlens.attribution.ranking import Candidate, Example, Ranking, Row, rank
from attnlens.attribution.ratio import attention_ratios

__all__ = ["Candidate", "Example", "Ranking", "Row", "attention_ratios", "rank"]
