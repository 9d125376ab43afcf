"""Adapters: what transformers cannot tell us about a model family, as YAML (schema), and where it is (library)."""

from attnlens.adapters.library import CONFIG_KEY, available, facts, find, for_model_type, from_config
from attnlens.adapters.schema import AdapterSpec

__all__ = ["CONFIG_KEY", "AdapterSpec", "available", "facts", "find", "for_model_type", "from_config"]
