"""The grid kinds: how a model family's image tokens lie in the image.

One class for each kind, with the facts that neither the config nor the image processor tells. The layouts themselves
are worked out in attnlens/lens/layouts, from these facts and from what the image processor gives for an image.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from attnlens.adapters._strict import FromConfig, Strict

Count = int | FromConfig
_VALUES = "^[cthw]{3,4}$"


class _Patches(Strict):
    """Patches of a vision tower, merged into tokens, row by row."""

    patch: Count = Field(
        default=FromConfig(config="vision_config.patch_size"), description="side of a patch, in canvas pixels"
    )
    merge: Count = Field(default=1, description="merge x merge patches are one token")
    before: Count = Field(default=0, description="image tokens without a place before the first row: a CLS token")
    row_end: Count = Field(default=0, description="image tokens without a place at the end of each row: a newline")
    after: Count = Field(default=0, description="image tokens without a place after the last row")
    reach: int | None = Field(
        default=0, ge=0, description="cells around its own that a token sees as well; null: the vision tower mixes all"
    )


class SquareGrid(_Patches):
    """A canvas of fixed size: `key` holds [pictures, channels, height, width], one for an image (LLaVA-1.5)."""

    kind: Literal["square"]
    key: str = "pixel_values"
    tokens: Count | None = Field(
        default=None, description="the canvas's patches are pooled into a square of so many tokens, instead of `merge`"
    )
    shift: float = Field(
        default=0, description="patches from the middle of the merged ones back to those that a token is centred on"
    )
    crops: str | None = Field(
        default=None, description="the output that counts an image's crops, which come after the whole image (Gemma 3)"
    )

    @model_validator(mode="after")
    def _one_way_of_merging(self) -> SquareGrid:
        if self.tokens is not None and self.merge != 1:
            raise ValueError("tokens says how many patches are one token: leave merge out")
        return self


class ThwGrid(_Patches):
    """Native aspect ratio: `key` holds (frames, rows, cols) in patches (Qwen-VL)."""

    kind: Literal["thw"]
    key: str = "image_grid_thw"
    merged: bool = Field(default=False, description="`key` counts tokens, and the pixels come in squares of a token")
    padded: bool = Field(default=False, description="the image does not fill the canvas: the rest of it is padding")
    blocks: bool = Field(
        default=True, description="the patches of a token follow each other in the pixels; false: patches row by row"
    )
    values: str = Field(
        default="cthw", pattern=_VALUES, description="order of a patch's values: channels, copies, height, width"
    )


class SizesGrid(_Patches):
    """Native aspect ratio: `key` holds (height, width) of the resized image in canvas pixels (Pixtral)."""

    kind: Literal["sizes"]
    key: str = "image_sizes"


class PositionsGrid(_Patches):
    """Native aspect ratio: `key` holds each patch's (column, row), -1 for padding (Gemma 4)."""

    kind: Literal["positions"]
    key: str = "image_position_ids"


class RowsGrid(Strict):
    """One token for each patch; each row of them ends in a patch that the image does not fill (Inkling)."""

    kind: Literal["rows"]
    patch: Count = FromConfig(config="vision_config.patch_size")
    values: str = Field(default="thwc", pattern=_VALUES, description="order of a patch's values, as in kind: thw")


class UnpaddedGrid(Strict):
    """One token for each patch of a canvas on which the image's `height` and `width` are known (Fuyu)."""

    kind: Literal["unpadded"]
    patch: Count = FromConfig(config="patch_size")
    height: str = "image_unpadded_heights"
    width: str = "image_unpadded_widths"
    values: str = Field(default="hwc", pattern=_VALUES, description="order of a patch's values, as in kind: thw")


class ShapesGrid(Strict):
    """The image, or tiles of one shape and a thumbnail: `key` holds (rows, cols) in patches for each (LFM2-VL)."""

    kind: Literal["shapes"]
    key: str = "spatial_shapes"
    patch: Count = FromConfig(config="vision_config.patch_size")
    merge: Count = Field(default=1, description="merge x merge patches are one token")
    rows: str = Field(default="image_rows", description="where the processor says how many rows of tiles there are")
    cols: str = Field(default="image_cols", description="where it says how many columns of tiles there are")
    values: str = Field(default="hwc", pattern=_VALUES, description="order of a patch's values, as in kind: thw")


class LatentsGrid(Strict):
    """Image tokens are queries without a place; the connector's attention leads to patches (Q-Former, perceiver)."""

    kind: Literal["latents"]
    queries: Count = Field(
        default=FromConfig(config="num_query_tokens"),
        description="image tokens for each picture; a config may also hold their number for each number of patches",
    )
    patch: Count = FromConfig(config="vision_config.patch_size")
    cls: int = Field(default=1, ge=0, description="patches before the grid in the connector's keys (a CLS token)")
    mask: str | None = Field(
        default=None,
        description="the image processor's output that is 0 where a picture is padding; None: a canvas without padding",
    )
    partly: bool = Field(default=False, description="a patch is seen even where a part of it is padding")


class CrossGrid(Strict):
    """The language model looks at patches through cross-attention; one token stands for the image (Mllama)."""

    kind: Literal["cross"]
    patch: Count = FromConfig(config="vision_config.patch_size")
    cls: int = Field(default=1, ge=0, description="patches before the grid in the keys of each picture (a CLS token)")
    ratios: str | None = Field(
        default=None,
        description="the image processor's output that holds the number of the arrangement of tiles; None: no tiles",
    )


class TilesGrid(Strict):
    """Rows and columns of tiles of one size, tile by tile, and a thumbnail of the whole image (InternVL, Idefics3)."""

    kind: Literal["tiles"]
    patch: Count = Field(
        default=FromConfig(config="vision_config.patch_size"), description="side of a patch, in canvas pixels"
    )
    merge: Count = Field(
        default=1, description="merge x merge patches are one token; a config may also hold 1 / merge, such as 0.5"
    )
    shift: float = Field(
        default=0, description="patches from the middle of the merged ones back to those that a token is centred on"
    )
    thumbnail: Literal["first", "last"] = Field(
        default="last", description="where the thumbnail's tokens stand in the prompt, beside those of the tiles"
    )
    key: str = Field(default="pixel_values", description="the image processor's output that holds the tiles")
    thumbnail_key: str | None = Field(
        default=None,
        description="the one that holds the thumbnail; None: among the tiles, first or last as in the prompt",
    )


class AnyresGrid(Strict):
    """The whole image on one square, then tiles without their padding, a newline after each row (LLaVA-NeXT)."""

    kind: Literal["anyres"]
    patch: Count = Field(
        default=FromConfig(config="vision_config.patch_size"), description="side of a patch, in canvas pixels"
    )
    merge: Count = Field(
        default=1, description="merge x merge patches are one token; a config may also hold 1 / merge, such as 1/4"
    )
    most: str | FromConfig | None = Field(
        default=None, description="anyres_max_9: tiles' tokens are scaled down to about those of 9 tiles; None: never"
    )


class SlicesGrid(Strict):
    """The whole image, then slices of a finer canvas: `key` holds (rows, cols) of each in patches (MiniCPM-V)."""

    kind: Literal["slices"]
    key: str = "target_sizes"
    slices: str = Field(default="grids", description="the image processor's output that holds (rows, cols) of slices")
    merge: int | FromConfig = Field(description="merge x merge patches are one token; a config may also hold '4x'")


class LocalGlobalGrid(Strict):
    """Slices of a canvas, if the image is large enough, then the whole image on a padded square (DeepSeek-OCR)."""

    kind: Literal["local_global"]
    patch: Count = Field(description="side of a patch, in canvas pixels")
    merge: int = Field(default=1, gt=0, description="merge x merge patches are one token")
    shift: float = Field(
        default=0, description="patches from the middle of the merged ones back to those that a token is centred on"
    )
    row_end: int = Field(default=0, ge=0, description="image tokens without a place at the end of each row: a newline")
    after: int = Field(default=0, ge=0, description="image tokens without a place after the last row: a separator")
    queries: bool = Field(
        default=False, description="tokens are queries that have no place of their own: a picture is one cell"
    )


class CropsGrid(Strict):
    """The whole image, then a finer canvas in crops that overlap: `key` holds the tokens' rows and cols (Molmo 2)."""

    kind: Literal["crops"]
    key: str = "image_grids"
    values: str = Field(default="hwc", pattern=_VALUES, description="order of a patch's values, as in kind: thw")


GridSpec = Annotated[
    SquareGrid
    | ThwGrid
    | SizesGrid
    | RowsGrid
    | UnpaddedGrid
    | ShapesGrid
    | PositionsGrid
    | LatentsGrid
    | CrossGrid
    | TilesGrid
    | AnyresGrid
    | SlicesGrid
    | LocalGlobalGrid
    | CropsGrid,
    Field(discriminator="kind"),
]
