"""Maps made of several: what they agree on, or what they say on the whole.

    both = attnlens.maps.product(attnlens.maps.relative_attention, attnlens.maps.gradient_attention)
    importance = both(reading, "What is written on the red sign?", layer="mean")

What comes back is a map function like those it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from typing import Any

from attnlens.errors import AttnLensError
from attnlens.importance import ImportanceMap
from attnlens.lens import Reading

Map = Callable[..., ImportanceMap]
"""(reading, question, **options) -> ImportanceMap."""


def product(*map_functions: Map) -> Map:
    """The map of what all of `map_functions` agree on: `ImportanceMap.product` of theirs; sums to 1.

    Where no cell is above 0 in every map, the map of zeros comes out, as `ImportanceMap.product` says.

    Args:
        *map_functions: one or more functions (reading, question, **options) -> ImportanceMap.

    Returns:
        A function of that kind too. Each option it is called with goes to every one of `map_functions` that names it,
            and its signature shows the options of all.

    Raises:
        AttnLensError: for no function, and for what is none. The function that comes back raises it for an option that
            none of `map_functions` names, for maps on different grids, and for cells that are negative, infinite or
            NaN.

    Examples:
        >>> both = maps.product(maps.relative_attention, maps.gradient_attention)
        >>> importance = both(reading, question, layer="mean")
        >>> importance.grid.shape, round(float(importance.values.sum()), 3)
        ((10, 10), 1.0)
    """
    return _combined(map_functions, ImportanceMap.product)


def average(*map_functions: Map) -> Map:
    """The mean of the maps of `map_functions`, each normalised first, so that none counts for more by its scale.

    Args:
        *map_functions: one or more functions (reading, question, **options) -> ImportanceMap.

    Returns:
        A function of that kind too, whose map sums to 1, unless a map of zeros is among them. Each option it is called
            with goes to every one of `map_functions` that names it, and its signature shows the options of all.

    Raises:
        AttnLensError: for no function, and for what is none. The function that comes back raises it for an option that
            none of `map_functions` names, for maps on different grids, and for a map that cannot be normalised.

    Examples:
        >>> either = maps.average(maps.relative_attention, maps.query_contrast)
        >>> importance = either(reading, question)
        >>> importance.grid.shape, round(float(importance.values.sum()), 3)
        ((10, 10), 1.0)
    """
    return _combined(map_functions, lambda maps: ImportanceMap.mean([one.normalised() for one in maps]))


def _combined(functions: Sequence[Map], combine: Callable[[list[ImportanceMap]], ImportanceMap]) -> Map:
    if not functions:
        raise AttnLensError("There is no map to combine; expected at least one, as in product(relative_attention).")
    taken = [_options(function) for function in functions]
    known = {name: option for options in taken for name, option in options.items()}

    def combined(reading: Reading, question: str, **options: Any) -> ImportanceMap:
        unknown = [name for name in options if name not in known]
        if unknown:
            raise AttnLensError(
                f"None of the combined maps has an option {', '.join(unknown)}. Expected: {', '.join(known) or 'none'}."
            )
        maps = []
        for function, names in zip(functions, taken, strict=True):
            maps.append(function(reading, question, **{name: options[name] for name in options if name in names}))
        return combine(maps)

    asked = list(signature(combined).parameters.values())[:2]
    # What looks at a stage's options, as a recipe does, sees those of the maps.
    setattr(combined, "__signature__", Signature([*asked, *known.values()]))  # noqa: B010 - functions have no such field
    return combined


def _options(function: Map) -> dict[str, Parameter]:
    """What a map takes by name besides the reading and the question."""
    try:
        parameters = list(signature(function).parameters.values())[2:]
    except (TypeError, ValueError) as error:
        raise AttnLensError(
            f"{function!r} is no map: {error}. Expected a function (reading, question, **options) -> ImportanceMap."
        ) from None
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {one.name: one.replace(kind=Parameter.KEYWORD_ONLY) for one in parameters if one.kind in named}
