"""Adapters: what transformers cannot tell us about a model family, as YAML (schema), and where it is (library)."""

from attnlens.adapters._library import available, find, for_model_type
from attnlens.adapters._schema import AdapterSpec

__all__ = ["AdapterSpec", "available", "find", "for_model_type"]
