"""The shape of an adapter: what transformers cannot tell us about a model family, as data.

An adapter is 10 to 25 lines of YAML. Everything that can be read off the config or the processor is left
out of it; `{config: dotted.path}` is the only indirection, so a file never holds code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from attnlens.errors import AttnLensError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FromConfig(_Strict):
    """A value that stands in the model's config, named by its dotted path."""

    config: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")

    def resolve(self, config: Any) -> Any:
        value = config
        for name in self.config.split("."):
            if not hasattr(value, name):
                raise AttnLensError(
                    f"The adapter reads {self.config!r} from the model's config, which has no {name!r} in "
                    f"{type(value).__name__}. Correct the path in the adapter's YAML."
                )
            value = getattr(value, name)
        return value


def resolve(value: Any, config: Any) -> Any:
    """`value` itself, or what it names in the model's `config`."""
    return value.resolve(config) if isinstance(value, FromConfig) else value


class SquareGrid(_Strict):
    """A fixed square of patches, one image token each, row by row (LLaVA-1.5)."""

    kind: Literal["square"]


class ThwGrid(_Strict):
    """Native aspect ratio: `key` holds (frames, rows, cols) in patches, `merge` x `merge` of them a token (Qwen-VL)."""

    kind: Literal["thw"]
    merge: int | FromConfig
    patch: int | FromConfig = FromConfig(config="vision_config.patch_size")
    key: str = "image_grid_thw"


class LatentsGrid(_Strict):
    """Image tokens are queries without a place; the connector's attention leads to a square of patches (Q-Former)."""

    kind: Literal["latents"]
    patch: int | FromConfig = FromConfig(config="vision_config.patch_size")
    cls: int = Field(default=1, ge=0, description="patches before the grid in the connector's keys (a CLS token)")


GridSpec = Annotated[SquareGrid | ThwGrid | LatentsGrid, Field(discriminator="kind")]


class PromptSpec(_Strict):
    """How a question becomes a prompt."""

    template: str = Field(
        default="chat",
        description="'chat' (the processor's own template), or text with {question} and {images}",
    )
    image: str = Field(default="<image>", description="what stands for one image in a literal template")
    prepended: int | FromConfig | None = Field(
        default=None, description="image tokens that the processor puts before the text, whatever the number of images"
    )
    per_image: tuple[str, ...] = Field(
        default=(), description="text inputs that the connector wants once for each image"
    )

    @field_validator("template")
    @classmethod
    def _has_a_question(cls, template: str) -> str:
        if template != "chat" and "{question}" not in template:
            raise ValueError("a literal template needs {question} (and {images}); or write: template: chat")
        return template


class LanguageModelSpec(_Strict):
    """Where the language model is, when it is not the whole model itself."""

    level: Literal["outer", "inner"] = Field(
        default="outer", description="inner: chunks and decoding go to the submodule at `path`, not to the whole model"
    )
    path: str = "language_model"
    attention: str | None = Field(
        default=None,
        description="path of the attention modules, * for a layer's number; None: as transformers records them",
    )
    shared_prefix: bool = Field(
        default=True, description="false where image tokens depend on the question, or see what follows them"
    )


class ConnectorSpec(_Strict):
    """Cross-attention between image patches and image tokens."""

    attention: str = Field(description="path of the attention modules; * stands for a layer's number")


class Defaults(_Strict):
    """What the paper, its code or a measurement on validation data chose for this family."""

    layer: int | Literal["mean"] = "mean"
    layers: int | None = Field(
        default=None, gt=0, description="the depth `layer` was chosen in; in a model of another depth it is scaled"
    )
    connector_layer: int | Literal["mean"] = "mean"
    window: int | None = Field(default=None, gt=0, description="side of the smallest crop, in original pixels")


class AdapterSpec(_Strict):
    """One adapter, as its YAML file says it."""

    model_types: tuple[str, ...] = Field(min_length=1)
    grid: GridSpec
    prompt: PromptSpec = PromptSpec()
    language_model: LanguageModelSpec = LanguageModelSpec()
    connector: ConnectorSpec | None = None
    image_token_id: int | FromConfig = FromConfig(config="image_token_id")
    defaults: Defaults = Defaults()
    name: str = Field(default="", description="filled in by the library: the file's stem")

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> AdapterSpec:
        return cls.model_validate(data)
