"""The shape of an adapter: what transformers cannot tell us about a model family, as data.

An adapter is 10 to 25 lines of YAML. Everything that can be read off the config or the processor is left
out of it; `{config: dotted.path}` is the only indirection, so a file never holds code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attnlens import _renamed
from attnlens.adapters._grids import GridSpec
from attnlens.adapters._strict import FromConfig, FromTokenizer, Strict

Strategy = Literal["shared", "replay", "one_pass", "eager"]


class PromptSpec(Strict):
    """How a question becomes a prompt."""

    template: str = Field(
        default="chat",
        description="'chat' (the processor's own template), or text with {question} and {images}",
    )
    image: str = Field(default="<image>", description="what stands for one image in a literal template")
    prepended: int | FromConfig | None = Field(
        default=None, description="image tokens that the processor puts before the text, whatever the number of images"
    )
    placed: int = Field(default=0, ge=0, description="images that the processor puts in front of a literal template")
    per_image: tuple[str, ...] = Field(
        default=(), description="text inputs that the connector wants once for each image"
    )
    image_axis: Literal[0, 1] = Field(
        default=0, description="axis of pixel_values along which a prompt's images stand; 1 behind an axis of prompts"
    )
    pixel_axis: int | None = Field(
        default=None, ge=0, description="axis of the pixels along which images stand, where it is not that of the rest"
    )
    patch_numbers: str | None = Field(
        default=None,
        description="an output that numbers patches, [tokens, patches], through all of a prompt's images, -1 for none",
    )
    image_mask: str | None = Field(
        default=None, description="an input that is 1 at the image tokens, where these have not all the same id"
    )
    literal: str | None = Field(
        default=None,
        description="the prompt where a processor has no chat template, as those of old folders",
    )
    pixels: str = Field(default="pixel_values", description="the image processor's output that holds the pixels")
    arguments: dict[str, Any] = Field(
        default={}, description="what the processor is called with beside images and text"
    )
    pixel_gradient: bool = Field(
        default=True, description="false where the image reaches the language model through codes (VQ)"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, given: Any) -> Any:
        return _renamed.keys(given, "prompt", counted="patch_numbers", marked="image_mask")

    @field_validator("template")
    @classmethod
    def _has_a_question(cls, template: str) -> str:
        if template != "chat" and "{question}" not in template:
            raise ValueError("a literal template needs {question} (and {images}); or write: template: chat")
        return template


class LanguageModelSpec(Strict):
    """Where the language model is and how its prompts may be cut, where that is not what most models do."""

    level: Literal["outer", "inner"] = Field(
        default="outer", description="inner: chunks and decoding go to the submodule at `path`, not to the whole model"
    )
    path: str = "language_model"
    attention: str | None = Field(
        default=None,
        description="path of the attention modules, * for a layer's number; None: as transformers records them",
    )
    attention_output: int = Field(
        default=1, description="which of the values that these modules put out is the weights"
    )
    strategy: Strategy | None = Field(
        default=None,
        description="shared: the image is prefilled once and every question is a tail on it; replay: each question is "
        "prefilled whole, and its last token run again; one_pass: each question in one pass, where image tokens depend "
        "on the question or on what follows them; eager: one pass of the model's own eager attention. None: shared; "
        "replay where the model has a recurrent state; one_pass behind a connector with attention, for an inner level, "
        "for cross-attention and for encoder-decoders",
    )
    appends_images: bool = Field(
        default=True, description="false where a crop cannot be added to a prefix that is already read"
    )


class ConnectorSpec(Strict):
    """Cross-attention between image patches and image tokens."""

    attention: str = Field(description="path of the attention modules; * stands for a layer's number")
    attention_output: int = Field(
        default=1, description="which of the values that these modules put out is the weights"
    )


class TinySpec(Strict):
    """What a tiny random model of the family needs beyond attnlens' own rules, for `attnlens adapters check --tiny`."""

    config: dict[str, Any] = Field(default={}, description="settings of the model's config, nested as it is")
    image_processor: str | None = Field(
        default=None, description="class of the image processor; None: the one transformers has for the model type"
    )
    images: dict[str, Any] = Field(default={}, description="settings of the image processor")


class Defaults(Strict):
    """What the paper, its code or a measurement on validation data chose for this family."""

    layer: int | Literal["mean"] = "mean"
    layers: int | None = Field(
        default=None, gt=0, description="the depth `layer` was chosen in; in a model of another depth it is scaled"
    )
    connector_layer: int | Literal["mean"] = "mean"
    window: int | None = Field(default=None, gt=0, description="side of the smallest crop, in original pixels")
    value_layers: tuple[int, int] | None = Field(
        default=None,
        description="first and last layer whose cached values show where an object is; None: the last half",
    )
    preset: str | None = Field(
        default=None, description="the family's name among the settings of FOCUS and ZoomEye, where there are some"
    )


class AdapterSpec(Strict):
    """One adapter, as its YAML file says it."""

    model_types: tuple[str, ...] = Field(min_length=1)
    """The `model_type` of each transformers config that the adapter handles."""
    when: dict[str, str | int | bool] = Field(
        default={}, description="what the config has to say besides its type: dotted path and value"
    )
    """What a config of these types has to say besides, by dotted path, for the adapter to be chosen by itself."""
    grid: GridSpec
    """How the family's image tokens lie in the image; its `kind` says which grid it is."""
    prompt: PromptSpec = PromptSpec()
    """How a question becomes a prompt."""
    language_model: LanguageModelSpec = LanguageModelSpec()
    """Where the language model is and how its prompts may be cut, where that is not what most models do."""
    connector: ConnectorSpec | None = None
    """Cross-attention between image patches and image tokens; None where there is none. A grid of latents needs it."""
    image_token_id: int | FromConfig | FromTokenizer = FromConfig(config="image_token_id")
    """The id of an image token: a number, where it stands in the model's config (`{config: dotted.path}`), or how the
    tokenizer writes the token (`{token: text}`)."""
    defaults: Defaults = Defaults()
    """What the paper, its code or a measurement on validation data chose for this family."""
    tiny: TinySpec = TinySpec()
    """What a tiny random model of the family needs beyond attnlens' own rules, for `attnlens adapters check --tiny`."""
    name: str = Field(default="", description="filled in by the library: the file's stem")
    """The file's stem, filled in by the library."""

    @model_validator(mode="after")
    def _latents_have_a_connector(self) -> AdapterSpec:
        if self.grid.kind == "latents" and self.connector is None:
            raise ValueError(
                "latents have no place of their own: name the connector's attention (connector: attention)"
            )
        return self

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> AdapterSpec:
        """The adapter that a mapping, as its YAML file holds it, describes.

        Args:
            data: the top-level keys of an adapter with their values. `model_types` and `grid` are needed. `name` may be
                there, too, which a file leaves out.

        Returns:
            The adapter, validated.

        Raises:
            pydantic.ValidationError: for a key that is missing or unknown, and for a value that does not fit its key.
                `attnlens.adapters.find` makes an AttnLensError of it, which names the file.

        Examples:
            >>> own = attnlens.AdapterSpec.from_mapping({"model_types": ["mine"], "grid": {"kind": "square"}})
            >>> own.grid.patch.config, own.prompt.template
            ('vision_config.patch_size', 'chat')
        """
        return cls.model_validate(data)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of an adapter's YAML file, with which editors complete and check it."""
    schema = AdapterSpec.model_json_schema()
    del schema["properties"]["name"]  # the file's stem
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "attnlens adapter"}
