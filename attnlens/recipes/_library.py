"""Recipes by name, and recipes from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from attnlens import _files, answers, boxes, maps
from attnlens.errors import AttnLensError
from attnlens.recipes import entropy, focus, hide, zoomeye
from attnlens.recipes._file import from_file
from attnlens.recipes._recipe import MapStage, Recipe
from attnlens.recipes.tools import clip, sam, yolo

HIGH_RESOLUTION_TILE = 1024
"""Pixels: the ViCrop paper's largest tile side."""


@dataclass(frozen=True)
class Card:
    """What a recipe does and needs, for people who choose one.

    Examples:
        >>> recipes.card("rel-att").passes
        '1 tail, 2 tokens; the crop'
    """

    signal: str
    """What it looks for."""
    passes: str
    """Passes of the model over a prompt beyond the first answer's, for the look and for the second answer.

    One more with a gate that does not let the first answer through, where a tail without the question is among them:
    the question's is run again.
    """
    gradient: bool
    """Whether it needs a backward pass."""
    regions: str
    """How many regions it finds, and how they are shown."""
    source: str
    """The paper that it is from; empty where there is none."""


_VICROP = "ViCrop, arXiv 2502.17422"
_CROP = "one, or count=; appended"

_BASELINES: dict[str, tuple[Recipe, Card]] = {
    "none": (Recipe(answer=answers.alone), Card("nothing: the image alone", "none", False, "none", "")),
    "human": (
        Recipe(),
        Card("a box you give, and its smallest square", "the crop", False, "one; appended", _VICROP),
    ),
}


def _vicrop(stage: MapStage, signal: str, passes: str, gradient: bool) -> tuple[Recipe, Card]:
    recipe = Recipe(map=stage, search=boxes.search)
    return recipe, Card(signal, f"{passes}; the crop", gradient, _CROP, _VICROP)


_WINDOWS: dict[str, tuple[Recipe, Card]] = {
    "rel-att": _vicrop(
        maps.relative_attention,
        "attention for the question over attention for a generic one",
        "1 tail, 2 tokens",
        False,
    ),
    "grad-att": _vicrop(maps.gradient_attention, "attention times its positive gradient", "1 token, and back", True),
    "pure-grad": _vicrop(maps.input_gradient, "gradient of the answer on edges' pixels", "1 whole, and back", True),
}


def _high(name: str) -> tuple[Recipe, Card]:
    recipe, card = _WINDOWS[name]
    tiled = Recipe(map=recipe.map, search=recipe.search, tiles=HIGH_RESOLUTION_TILE)
    signal = f"{name} on tiles of {HIGH_RESOLUTION_TILE} px"
    return tiled, Card(signal, "as many for each tile; the crop", card.gradient, _CROP, _VICROP)


_RECIPES: Mapping[str, tuple[Recipe, Card]] = MappingProxyType(
    {
        **_BASELINES,
        **_WINDOWS,
        **{f"{name}-high": _high(name) for name in _WINDOWS},
        "focus": (
            Recipe(locate=focus.locate, answer=answers.union),
            Card(
                "likeness of cached values to the target's words, and a yes or no about regions",
                "1 tail a target, 1 a region; the crop",
                False,
                "one a target, or count=; in the image's place",
                "FOCUS, arXiv 2506.21710",
            ),
        ),
        "zoomeye": (
            Recipe(locate=zoomeye.locate, answer=answers.union),
            Card(
                "the model's yes and no about a tree of crops; no map",
                "2 or 3 a crop, up to 60 and more; the crop",
                False,
                "one a target; in the image's place",
                "ZoomEye, arXiv 2411.16044",
            ),
        ),
        "entropy": (
            Recipe(locate=entropy.locate),
            Card(
                "gradient of the first token's entropy on the image tokens",
                "1 whole and back, and for each further look; the crops",
                True,
                "two, or count=; appended",
                "Entropy-Gradient Grounding, arXiv 2604.08456",
            ),
        ),
        "hide": (
            Recipe(locate=hide.locate, answer=answers.append_montage),
            Card(
                "attention of the target's words less that of the instruction",
                "1 tail a target; the montage",
                False,
                "up to four a target, or count=; a montage, appended",
                "HiDe, arXiv 2510.00054",
            ),
        ),
        "laser": (
            Recipe(map=maps.query_contrast, search=boxes.search),
            Card(
                "attention with the question less without, at the layer it moves most",
                "1 tail, 2 tokens; the crop",
                False,
                _CROP,
                "LASER, arXiv 2602.04304",
            ),
        ),
        "loc-heads": (
            Recipe(map=maps.head_attention, search=partial(boxes.components, count=1)),
            Card(
                "attention of the heads that look at one place",
                "1 token; the crop",
                False,
                _CROP,
                "Localization heads, arXiv 2503.06287",
            ),
        ),
        "clip": (
            Recipe(locate=clip),
            Card("CLIP, on ever smaller crops", "none, 80 crops of CLIP; the crop", False, "one; appended", _VICROP),
        ),
        "yolo": (
            Recipe(locate=yolo),
            Card("a detector's objects, ranked by CLIP", "none, a detector's; the crop", False, _CROP, _VICROP),
        ),
        "sam": (
            Recipe(locate=sam),
            Card("SAM's masks, ranked by CLIP", "none, SAM's; the crop", False, _CROP, _VICROP),
        ),
    }
)


def names() -> list[str]:
    """The bundled recipes.

    Returns:
        Their names, as `ask(recipe=)` takes them.

    Examples:
        >>> recipes.names()[:4]
        ['none', 'human', 'rel-att', 'grad-att']
    """
    return list(_RECIPES)


def card(name: str) -> Card:
    """What a bundled recipe does and needs.

    Args:
        name: one of `names()`.

    Returns:
        Its card.

    Raises:
        AttnLensError: for another name; the message has the valid ones.

    Examples:
        >>> [name for name in recipes.names() if recipes.card(name).gradient]
        ['grad-att', 'pure-grad', 'grad-att-high', 'pure-grad-high', 'entropy']
    """
    return _find(name)[1]


def find(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name or from a YAML file; a `Recipe` is handed back.

    Args:
        recipe: one of `names()`, the path of a YAML file (`.yaml`, `.yml`), or a `Recipe`.

    Returns:
        The recipe.

    Raises:
        AttnLensError: for another name, with the valid ones in the message; and for a file that cannot be read or does
            not fit, with the key that is wrong and what would do.

    Examples:
        >>> find("rel-att").map.__name__
        'relative_attention'
    """
    if isinstance(recipe, Recipe):
        return recipe
    if str(recipe).endswith((".yaml", ".yml")):
        return from_file(_files.expanded(recipe))
    return _find(str(recipe))[0]


def _find(name: str) -> tuple[Recipe, Card]:
    if name not in _RECIPES:
        raise AttnLensError(
            f"There is no recipe {name!r}. Expected one of {', '.join(_RECIPES)}, or the path of a YAML file."
        )
    return _RECIPES[name]
