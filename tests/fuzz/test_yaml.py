"""Adapters and recipes as YAML, damaged and hostile: what they say, or one error."""

from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from attnlens import Recipe
from attnlens.adapters import AdapterSpec, _library
from attnlens.recipes._file import from_file
from tests.fuzz.trying import amounts, damaged, on_many, outcome

ADAPTERS = [
    path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[2] / "adapters").glob("*.yaml"))
]
RECIPES = [
    "map: {name: relative-attention, layer: mean}\nsearch: {name: window, window: 224, count: 2}\nanswer: append\n",
    "map:\n  - name: gradient-attention\n  - name: entropy-gradient\ncombine: average\ntiles: 1024\ngate: 0.9\n",
    "search: {name: components, count: 3}\nmap: {name: query-contrast}\nanswer: union\n",
]
SCALARS = [
    "1:30", "190:20:30.15", "1" + ":59" * 5000, "9" * 5000, "9" * 4000, "1e400", ".inf", "-.inf", ".nan", "~", "no",
    "", "0x" + "f" * 9000, "0o17", "1_000", "2001-99-99", "2001-12-14t21:59:43.10-99:99", "<<", "=", "!!binary aGk=",
    "!!python/name:os.system", "&a [*a]", "*a", "{config: __class__.__init__.__globals__}", "{config: to_dict}",
    "{config: text_config._internal}", "{config: 'a.b\n'}", "[" * 60_000, "{a: " * 15_000, "? " * 20_000, "- " * 30_000,
    "'\\x1b[2J'", '"\\ud800"', '"\\0"', "-1", "1.5", "[]", "{}", "[1, [2, [3]]]", "|\n  text", "\u202e", "true", "'''",
    '"\\x1b]0;title\\x07"', "\ufeff", "---", "...", "%YAML 9.9",
]  # fmt: skip
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(10**400, 10**401), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=6), st.integers()), inner, max_size=4),
    ),
    max_leaves=8,
)  # fmt: skip


@st.composite
def other_values(draw, text):
    """`text` with another value behind some of its colons."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        key, colon, _ = lines[place].partition(": ")
        value = draw(
            st.one_of(st.sampled_from(SCALARS), PLAIN.map(lambda one: yaml.safe_dump(one, default_flow_style=True)))
        )
        lines[place] = f"{key}{colon or ': '}{value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def other_mapping(draw, text):
    """What `text` says, with another value at one of its keys or at a key of another name."""
    data = yaml.safe_load(text)
    inner = [data, *(value for value in data.values() if isinstance(value, dict))]
    part = draw(st.sampled_from(inner))
    key = draw(st.one_of(st.sampled_from(sorted(map(str, part)) or ["x"]), st.text(max_size=8)))
    part[key] = draw(PLAIN)
    return yaml.safe_dump(data, allow_unicode=True).encode()


def files_like(texts):
    whole = st.sampled_from(texts)
    same = st.tuples(whole, st.text("abc é☃", max_size=20)).map(lambda pair: f"{pair[0]}\n# {pair[1]}\n".encode())
    changed = whole.flatmap(lambda text: st.one_of(damaged(text.encode()), other_values(text), other_mapping(text)))
    other = PLAIN.map(lambda one: yaml.safe_dump(one).encode())
    return st.one_of(same, changed, changed, changed, st.binary(max_size=200), other)


@pytest.mark.parametrize(
    ("texts", "read", "kind"),
    [(ADAPTERS, _library.read, AdapterSpec), (RECIPES, from_file, Recipe)],
    ids=["adapter", "recipe"],
)
@amounts(fast=60, long=2500)
def test_a_file_is_what_it_says_or_one_error(tmp_path, texts, read, kind, count):
    path, outcomes = tmp_path / "one.yaml", {True: 0, False: 0}

    def claim(data):
        path.write_bytes(data)
        found = outcome(lambda: read(path))
        outcomes[isinstance(found, kind)] += 1
        if not isinstance(found, kind):
            assert "one.yaml" in str(found)
            assert len(str(found)) < 20_000

    on_many(claim, count, files_like(texts))
    assert min(outcomes.values()) > count / 50, outcomes
