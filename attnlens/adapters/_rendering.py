"""An adapter as YAML text, each of its facts with a comment that says where it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import yaml

from attnlens.adapters._library import schema_path
from attnlens.adapters._schema import AdapterSpec

WIDTH = 110
_HEADER = "# yaml-language-server: $schema="
_ORDER = ("model_types", "grid", "prompt", "language_model", "connector", "image_token_id", "defaults", "tiny")


def render(spec: AdapterSpec, origin: Mapping[str, str], heading: str) -> str:
    """YAML that `find` reads back as `spec`: the editor's header, `heading` as comments, each key under its origin."""
    facts = spec.model_dump(mode="json", exclude_unset=True, exclude={"name"})
    lines = [header(), *_comment(heading)]
    for key in _ORDER:
        if key in origin:
            lines += _comment(origin[key])
        if facts.get(key):
            lines.append(
                yaml.safe_dump({key: facts[key]}, default_flow_style=None, sort_keys=False, width=WIDTH).rstrip()
            )
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="#   ")


def with_header(text: str) -> str:
    """An adapter's text for a place of its own: the header of a bundled file is true only beside its schema."""
    first, *rest = text.split("\n", 1)
    return "\n".join([header(), *rest]) if first.startswith(_HEADER) else text


def header() -> str:
    """What makes an editor complete and check an adapter: its first line."""
    return f"{_HEADER}{schema_path()}"
