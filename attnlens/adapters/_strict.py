"""What every part of an adapter is made of: strict models, and `{config: dotted.path}`."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from attnlens.errors import AttnLensError


class Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class FromConfig(Strict):
    """A value that stands in the model's config, named by its dotted path."""

    config: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*$")

    def resolve(self, config: Any) -> Any:
        value = config
        for name in self.config.split("."):
            found = getattr(value, name, _MISSING)
            if found is _MISSING or callable(found):  # a method of the config's is no setting
                raise AttnLensError(
                    f"The adapter reads {self.config!r} from the model's config, which has no {name!r} in "
                    f"{type(value).__name__}. Correct the path in the adapter's YAML."
                )
            value = found
        if not isinstance(value, _DATA):
            raise AttnLensError(
                f"The adapter reads {self.config!r} from the model's config, which is a {type(value).__name__} and no "
                "setting. Name one of its settings in the adapter's YAML."
            )
        return value


_MISSING = object()
_DATA = (int, float, str, list, tuple, dict, type(None))


class FromTokenizer(Strict):
    """A token's id, where the config does not hold it: `token` is how the tokenizer writes it."""

    token: str = Field(min_length=1)


def resolve(value: Any, config: Any) -> Any:
    """`value` itself, or what it names in the model's `config`."""
    return value.resolve(config) if isinstance(value, FromConfig) else value
