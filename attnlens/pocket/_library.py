"""Where the bundled models are: one folder each, as `from_pretrained` wants it, with a checksum of its weights."""

import hashlib
import json
import pathlib

from attnlens.errors import AttnLensError

WEIGHTS = "model.safetensors"
CHECKSUM = "checksum.json"

_MODELS = pathlib.Path(__file__).parent / "models"
_CROPPERS = pathlib.Path(__file__).parent / "croppers"
_AGAIN = (
    "Install attnlens again (pip install --force-reinstall --no-deps attnlens), or check out its models folder again."
)


def names() -> list[str]:
    """The names of the bundled models, without the `pocket/` in front.

    Returns:
        The names, sorted. `attnlens.load` takes each with `pocket/` in front, `path` without.

    Examples:
        >>> "llava" in attnlens.pocket.names()
        True
    """
    return _named(_MODELS)


def path(name: str) -> pathlib.Path:
    """The folder of a bundled model, whose weights are there and are those that were packaged.

    Args:
        name: one of `names`, without the `pocket/` in front.

    Returns:
        The folder, as `from_pretrained` takes it.

    Raises:
        AttnLensError: when there is no such model (with the names there are), and when its weights are missing or are
            not what they were.

    Examples:
        >>> attnlens.pocket.path("llava").name
        'llava'
    """
    return _whole(_MODELS, name)


def cropper_path(name: str) -> pathlib.Path:
    """The folder of a bundled model that chooses crops for others: `clip`, for the recipe of that name.

    It knows the signs of `scenes` and nothing else.

    Args:
        name: the name of such a model: `clip`.

    Returns:
        The folder, as `from_pretrained` and the `scorer` of the recipe take it.

    Raises:
        AttnLensError: as `path` does.

    Examples:
        >>> scorer = attnlens.pocket.cropper_path("clip")
        >>> len(attnlens.ask(lens, image, question, recipe="clip", scorer=scorer).boxes)
        1
    """
    return _whole(_CROPPERS, name)


def check(folder: pathlib.Path) -> None:
    """Compare the weights of a bundled model's folder with their checksum. Raises AttnLensError."""
    weights, noted = folder / WEIGHTS, folder / CHECKSUM
    if not weights.is_file() or not noted.is_file():
        missing = weights if not weights.is_file() else noted
        raise AttnLensError(f"The pocket model {folder.name!r} lacks {missing.name}. {_AGAIN}")
    expected = json.loads(noted.read_text(encoding="utf-8"))["sha256"]
    seen = _sha256(weights)
    if seen != expected:
        raise AttnLensError(
            f"The weights of the pocket model {folder.name!r} are damaged: {weights.name} has "
            f"{weights.stat().st_size:,} bytes and sha256 {seen[:12]}..., expected {expected[:12]}... {_AGAIN}"
        )


def seal(folder: pathlib.Path) -> None:
    """Note the checksum of the weights in a model's folder."""
    noted = {"file": WEIGHTS, "sha256": _sha256(folder / WEIGHTS)}
    (folder / CHECKSUM).write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")


def _named(shelf: pathlib.Path) -> list[str]:
    return sorted(config.parent.name for config in shelf.glob("*/config.json"))


def _whole(shelf: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of that name on a shelf of models, checked."""
    if name not in _named(shelf):
        raise AttnLensError(f"no pocket model is named {name!r}; there is {', '.join(_named(shelf)) or 'none'}")
    check(shelf / name)
    return shelf / name


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
