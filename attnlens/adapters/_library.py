"""Finds adapters: by path, by name, by model type.

A name is looked for in, in this order: the folders of `ATTNLENS_ADAPTERS`, the user's folder
(`$XDG_CONFIG_HOME/attnlens/adapters`, normally `~/.config/attnlens/adapters`), the entry points `attnlens.adapters` of
installed packages, and the library bundled with attnlens. The first one that has it wins.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from attnlens import _files
from attnlens.adapters import _safeyaml
from attnlens.adapters._explain import explain, nearest
from attnlens.adapters._schema import AdapterSpec
from attnlens.errors import AttnLensError

ENVIRONMENT = "ATTNLENS_ADAPTERS"
ENTRY_POINTS = "attnlens.adapters"
SUFFIXES = (".yaml", ".yml")
CONFIG_KEY = "attnlens"
"""In a model's config.json: the adapter of the folder that the model was loaded from."""

_log = logging.getLogger("attnlens")


def find(adapter: str | os.PathLike[str] | AdapterSpec) -> AdapterSpec:
    """The adapter with that name, in that file, or `adapter` itself where it already is one.

    A name is looked for in the folders of `ATTNLENS_ADAPTERS`, in the user's folder
    (`$XDG_CONFIG_HOME/attnlens/adapters`, normally `~/.config/attnlens/adapters`), in the entry points
    `attnlens.adapters` of installed packages, and in the library bundled with attnlens, in this order. The first one
    that has it wins.

    Args:
        adapter: a name, the path of a YAML file, or an `AdapterSpec`. Anything with a folder separator or a YAML suffix
            (`.yaml`, `.yml`) is a path.

    Returns:
        The adapter. Of one that is read from a file, `name` is the file's stem.

    Raises:
        AttnLensError: where there is no such name or file, or where the file is not an adapter. The message names the
            file, the key, and what was expected.

    Examples:
        >>> attnlens.adapters.find("llava").grid.kind
        'square'
    """
    if isinstance(adapter, AdapterSpec):
        return adapter
    return read(path_of(adapter))


def path_of(adapter: str | os.PathLike[str]) -> Path:
    """The file that `adapter`, a name or a path, stands for."""
    if isinstance(adapter, os.PathLike) or _is_path(adapter):
        return _files.expanded(adapter)
    name, known = adapter, available()
    if name in known:
        return known[name]
    handled_by = next(_that_handle(name, known), None)
    if handled_by is not None:
        hint = f"{name!r} is a model type that the adapter {handled_by!r} handles: use that name."
    else:
        hint = f"{nearest(name, known)}Known adapters: {', '.join(sorted(known))}. A file's path works too."
    raise AttnLensError(f"There is no adapter {name!r}. {hint}")


def for_model_type(model_type: str) -> AdapterSpec:
    """The first adapter whose `model_types` holds `model_type`.

    Args:
        model_type: a transformers config's `model_type`.

    Returns:
        The adapter; where several hold the type, the first in the order of `available`.

    Raises:
        AttnLensError: where no adapter handles the type. The message names those that are handled.

    Examples:
        >>> attnlens.adapters.for_model_type("qwen2_5_vl").name
        'qwen2_5_vl'
    """
    known = available()
    for name in _that_handle(model_type, known):
        if not (spec := read(known[name])).when:
            return spec
    types = sorted({type_ for path in known.values() for type_ in _model_types_of(path)})
    raise AttnLensError(
        f"No adapter handles the model type {model_type!r}. {nearest(model_type, types)}Handled: {', '.join(types)}. "
        f"Write one (10 to 25 lines of YAML, see `attnlens adapters show llava`) and hand its path over as the adapter."
    )


def for_config(config: Any) -> AdapterSpec:
    """The adapter for a model's config: one whose `when` fits it, else the first of its type without `when`.

    Raises AttnLensError as `for_model_type` does.
    """
    known = available()
    fitting = (read(known[name]) for name in _that_handle(config.model_type, known))
    return next((spec for spec in fitting if _fits(spec, config)), None) or for_model_type(config.model_type)


def _fits(spec: AdapterSpec, config: Any) -> bool:
    """Whether the config says all that the adapter's `when` says, which is something."""
    said = {
        path: functools.reduce(lambda one, name: getattr(one, name, None), path.split("."), config)
        for path in spec.when
    }
    return bool(said) and said == spec.when


def available() -> dict[str, Path]:
    """Names of all adapters, in the order in which they are found, with their files.

    Returns:
        The path of the YAML file for each name. Where several files have a name, the one that `find` takes.

    Raises:
        AttnLensError: for a folder that `ATTNLENS_ADAPTERS` names and that is none or cannot be read, for two files of
            the same name in one folder, and for an entry point that cannot be loaded.

    Examples:
        >>> attnlens.adapters.available()["llava"].name
        'llava.yaml'
    """
    found: dict[str, Path] = {}
    for paths in _sources():
        for path in paths:
            found.setdefault(path.stem, path)
    return found


def read(path: Path) -> AdapterSpec:
    """The adapter in that YAML file; its name is the file's stem."""
    data = _safeyaml.load(path)
    if not isinstance(data, Mapping):
        raise AttnLensError(
            f"{path}: an adapter is a mapping that starts with model_types: [...], not {type(data).__name__}."
        )
    if "name" in data:
        raise AttnLensError(f"{path}: name: leave it out; an adapter's name is its file's stem, here {path.stem!r}.")
    return _validated(data, path.stem, str(path))


def facts(spec: AdapterSpec) -> dict[str, Any]:
    """What an adapter says, as plain data for a model's config, which keeps it when the model is saved."""
    return spec.model_dump(mode="json", exclude={"name"}, exclude_unset=True)


def from_config(kept: Any) -> AdapterSpec:
    """The adapter that a model's config keeps, validated as one in a file. Raises AttnLensError."""
    where = f"The key {CONFIG_KEY!r} in the model's config"
    if not isinstance(kept, Mapping) or "name" in kept:
        raise AttnLensError(f"{where} should hold an adapter, a mapping without a name. Take it out of config.json.")
    return _validated(kept, CONFIG_KEY, where)


def _validated(data: Mapping[str, Any], name: str, where: str) -> AdapterSpec:
    try:
        return AdapterSpec.from_mapping({**data, "name": name})
    except ValidationError as error:
        raise AttnLensError(f"{where}: {explain(error, AdapterSpec)}") from None


def _is_path(text: str) -> bool:
    return text.endswith(SUFFIXES) or os.sep in text or (os.altsep is not None and os.altsep in text)


def _that_handle(model_type: str, known: Mapping[str, Path]) -> Iterator[str]:
    # Reading dozens of files takes a moment, and parsing them takes seconds.
    mentioned = ((name, path) for name, path in known.items() if model_type in _text_of(path))
    return (name for name, path in mentioned if model_type in _model_types(_safeyaml.load(path)))


def _text_of(path: Path) -> str:
    """The file's text; nothing, said in the log, where it cannot be read: it may be about another model."""
    try:
        return _safeyaml.read_text(path)
    except AttnLensError as error:
        _log.warning("An adapter is passed over. %s", error)
        return ""


def _model_types_of(path: Path) -> list[str]:
    """The model types that the file handles; none where it is no plain YAML."""
    try:
        return _model_types(_safeyaml.load(path))
    except AttnLensError:
        return []


def _model_types(data: Any) -> list[str]:
    """`model_types` as far as the file has them, without validating the rest: a library may hold unfinished drafts."""
    listed = data.get("model_types") if isinstance(data, Mapping) else None
    return [item for item in listed if isinstance(item, str)] if isinstance(listed, list) else []


def _sources() -> Iterator[list[Path]]:
    for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep):
        if part:
            yield yaml_files(_files.expanded(part), f"{ENVIRONMENT} names")
    if (folder := user_folder()) is not None and folder.is_dir():
        yield yaml_files(folder, "The user's folder of adapters is")
    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        for path in _entry_point_paths(entry_point):
            who = f"The entry point {entry_point.name!r} = {entry_point.value!r} leads to"
            yield [path] if path.is_file() else yaml_files(path, who)
    yield yaml_files(_bundled_folder(), "The bundled library should be")


def yaml_files(folder: Path, who: str) -> list[Path]:
    """The folder's own YAML files, sorted; folders inside it and hidden files are left alone."""
    if not os.path.isdir(folder):
        raise AttnLensError(f"{who} {str(folder)!r}, which is not a folder. Create it, or correct the name.")
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    except OSError as error:
        raise AttnLensError(f"{who} {str(folder)!r}, which cannot be read: {error.strerror}.") from None
    seen: dict[str, Path] = {}
    for path in found:
        if (twin := seen.setdefault(path.stem, path)) != path:
            raise AttnLensError(f"{twin} and {path} are both the adapter {path.stem!r}. Remove or rename one of them.")
    return found


def user_folder() -> Path | None:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative paths ignored.
    if not os.path.isabs(config):
        config = os.path.join(os.path.expanduser("~"), ".config")
    return Path(config, "attnlens", "adapters") if os.path.isabs(config) else None


def _bundled_folder() -> Path:
    """Inside the package in a wheel; beside it in a checkout."""
    inside = Path(__file__).parent / "bundled"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "adapters"


def schema_path() -> Path:
    """The JSON Schema of adapters, for editors."""
    return _bundled_folder() / "schema.json"


def _entry_point_paths(entry_point: importlib.metadata.EntryPoint) -> list[Path]:
    """What the entry point names: a package that holds YAML files, a path, or a function that returns paths."""
    said = f"{entry_point.name!r} = {entry_point.value!r}"
    try:
        value = entry_point.load()
        if callable(value):
            value = value()
    except Exception as error:  # another package's code may fail in any way
        package = entry_point.dist.name if entry_point.dist is not None else "an installed package"
        raise AttnLensError(
            f"The adapters of {package} (entry point {said}) could not be loaded: {type(error).__name__}: {error}. "
            "Correct or uninstall that package."
        ) from error
    if isinstance(value, ModuleType):
        # A module without a folder of its own (a single file) stands for the folder it lies in.
        folders = list(getattr(value, "__path__", [])) or [os.path.dirname(str(value.__file__))]
        return [Path(folder) for folder in folders]
    several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike)
    values = list(value) if several else [value]
    if not all(isinstance(item, str | os.PathLike) for item in values):
        raise AttnLensError(
            f"The entry point {said} should name a package, a path, or a function that returns paths; it gave "
            f"{value!r}."
        )
    return [Path(item) for item in values]
