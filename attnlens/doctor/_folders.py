"""The folders that attnlens reads: the hub's cache, those of adapters, the bundled models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from attnlens.doctor._findings import Finding, State
from attnlens.errors import AttnLensError, first_line

AREA = "folders"
_TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its flags


def downloads() -> Iterator[Finding]:
    """The cache of downloads, and whether a network may be used."""
    offline = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_on(name)), None)
    yield _hub_cache(offline is not None)
    if offline is not None:
        again = f"To download models, unset {offline}."
        yield Finding(AREA, "network", "note", f"not used: {offline} is set", again)


def hub_cache() -> Path:
    """Where Hugging Face keeps downloads, found as its library does, which may be what is broken."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return _expanded(named)
    home = os.environ.get("HF_HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(home or os.path.join(caches, "huggingface")) / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(path)))


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").upper() in _TRUE


def _hub_cache(offline: bool) -> Finding:
    folder = hub_cache()
    try:
        models = [one for one in folder.glob("models--*") if one.is_dir()] if folder.exists() else []
    except OSError as error:
        return Finding(AREA, "hub cache", "fails", f"{folder}: {first_line(error)}", _ELSEWHERE)
    if folder.exists() and not folder.is_dir():
        return Finding(AREA, "hub cache", "fails", f"{folder} is no folder", _ELSEWHERE)
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    there = f"{len(models)} models" if folder.exists() else "made at the first download"
    told = f"{folder}: {there}, {shutil.disk_usage(nearest).free / 2**30:.1f} GiB free"
    if os.access(nearest, os.W_OK | os.X_OK):
        return Finding(AREA, "hub cache", "ok", told)
    state: State = "note" if offline else "fails"  # what is there can be read all the same
    return Finding(AREA, "hub cache", state, f"{told}, and nothing can be written there", _ELSEWHERE)


_ELSEWHERE = "Models cannot be downloaded to it: give HF_HOME another folder, or correct the rights of this one."


def adapters() -> Iterator[Finding]:
    """The user's folders, file by file; entry points and the bundled library as a whole."""
    from attnlens.adapters import _library

    named = [_expanded(part) for part in os.environ.get(_library.ENVIRONMENT, "").split(os.pathsep) if part]
    if (own := _library.user_folder()) is not None and own.is_dir():
        named.append(own)
    elif own is not None:
        yield Finding(AREA, "adapters", "ok", f"{own}: not there, and not needed")
    broken = False
    for folder in named:
        found = list(_in_folder(folder))
        broken = broken or any(one.state == "fails" for one in found)
        yield from found
    if broken:
        return  # what is found by name stops at the first folder that cannot be read
    try:
        count = len(_library.available())
    except AttnLensError as error:
        yield Finding(AREA, "adapters", "fails", first_line(error), "Correct or uninstall what it names.")
    else:
        yield Finding(AREA, "adapters", "ok" if count else "fails", f"{count} can be used by name")


def _in_folder(folder: Path) -> Iterator[Finding]:
    from attnlens.adapters import _library

    try:
        files = _library.yaml_files(folder, f"{_library.ENVIRONMENT} names")
    except (AttnLensError, OSError) as error:
        yield Finding(AREA, "adapters", "fails", first_line(error), f"Create {folder}, or take it out of the variable.")
        return
    wrong = []
    for path in files:
        try:
            _library.read(path)
        except (AttnLensError, OSError) as error:
            wrong.append(Finding(AREA, "adapters", "fails", str(error), f"Correct {path}, or move it elsewhere."))
    yield from wrong
    yield Finding(AREA, "adapters", "ok", f"{folder}: {len(files) - len(wrong)} of {len(files)} are valid")


def bundled() -> Iterator[Finding]:
    """The bundled models' weights against their checksums."""
    from attnlens import pocket

    names = pocket.names()
    if not names:
        again = "Install attnlens again: pip install --force-reinstall --no-deps attnlens"
        yield Finding(AREA, "bundled models", "fails", "none is there", again)
        return
    whole = []
    finds = {**dict.fromkeys(names, pocket.path), "clip": pocket.cropper_path}
    for name, find in finds.items():
        try:
            whole.append(find(name).name)
        except (AttnLensError, OSError, ValueError, KeyError) as error:
            yield Finding(AREA, "bundled models", "fails", first_line(error), "Install attnlens again.")
    if whole:
        yield Finding(AREA, "bundled models", "ok", f"{', '.join(whole)}: weights are those of their checksums")
