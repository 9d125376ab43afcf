"""A chat template is rendered as transformers renders it, and stopped where it would take the machine with it."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens._inputs import templates
from tests import tiny

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is <it> & 5?"}]}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

ORDINARY = [
    tiny.LLAVA_TEMPLATE,
    tiny.QWEN_TEMPLATE,
    "{{ bos_token }}{% for m in messages %}{{ m.role | upper }}:\n  {% if m.content is string %}{{ m.content }}"
    "{% else %}{% for c in m.content %}{{ c.text | default('<image>') | trim }}{% endfor %}{% endif %}{% endfor %}\n",
    "{% macro part(c) %}{{ '<' ~ c.type ~ '>' ~ loop_ ~ 1 }}{% endmacro %}"
    "{% for c in messages[0].content %}{{ part(c) }}{{ loop.index }}/{{ loop.length }}{% endfor %}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for c in messages[0].content %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.seen = ns.seen + [c.type] %}{% endfor %}{{ ns.n }} {{ ns.seen | join(', ') }} {{ ns.seen | tojson }}",
    "{{ messages | tojson(indent=2) }}"
    "{{ messages[0].content | selectattr('type', 'equalto', 'text') | list | length }}",
    "{{ messages[0].content[-1].text.split(' ')[1:] | map('upper') | list }} {{ '%05.1f|%s' % (2.5, [1]) }}",
    "{{ '{:>8}|{}'.format('a', 3) }}{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 'x' | center(9) }}{{ -(3) % 2 }}",
    "{% for i in range(3) recursive %}{{ i }}{% if i == 2 %}{{ loop([0, 1]) }}{% endif %}{% endfor %}",
    "{% call(x) f() %}{{ x }}{% endcall %}{% macro f() %}{{ caller(1) }}{% endmacro %}",
    "{% macro f() %}[{{ caller(1) }}]{% endmacro %}{% call(x) f() %}{{ x }}{% endcall %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ tools is none }}{{ nothing is defined }}",
    "{% if messages[0].role == 'user' and add_generation_prompt %}{{ eos_token }}{% endif %}"
    "{{ nothing }}{{ nothing == 1 }}",
    "{% generation %}{{ messages[0].role }}{% endgeneration %}{% set a, b = 1, 2 %}{{ a < b <= 2 }}{{ (1, 'x') }}",
    "{% for i in range(9) %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}{{ [3, 1] | sort }}",
    "{{ raise_exception('System role not supported') }}",
    "{{ messages[0].content.append(1) }}",
    "{% for m in messages %}{{ m.nothing.further }}{% endfor %}",
    "{{ 'unclosed",
]


def outcome(render: Any) -> Any:
    try:
        return render()
    except Exception as error:  # noqa: BLE001 - what is raised is compared
        return type(error), str(error)


@pytest.mark.parametrize("template", ORDINARY)
def test_a_template_is_rendered_as_transformers_renders_it(template: str) -> None:
    variables = {"messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": True, **SPECIAL}
    expected = outcome(
        lambda: render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **SPECIAL)[0][0]
    )
    assert outcome(lambda: templates.render(template, variables)) == expected


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
ENDS = "{% endfor %}{% endfor %}{% endfor %}"
HOSTILE = {
    "loops": LOOPS + ENDS,
    "loops that write": LOOPS + "x" + ENDS,
    "loops that compare": LOOPS + "{% if a == b %}{% endif %}" + ENDS,
    "a loop over a long body": "{% for a in range(99999) %}" + "{% if x %}{% endif %}" * 400 + "{% endfor %}",
    "a filtered loop": "{% for a in range(99999) if a < 0 %}{% endfor %}" * 200,
    "a loop of itself": "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion in two": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a product": "{{ 'x' * 10 ** 10 }}",
    "a list": "{{ [0] * 10 ** 10 }}",
    "in a branch not taken": "{% if not messages %}{{ 'x' * 10 ** 10 }}{% else %}" + LOOPS + ENDS + "{% endif %}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set ns = namespace(x=9) %}{% for a in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling": "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by writing": "{% set ns = namespace(x='x') %}{% for a in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling by %": "{% set ns = namespace(x='x') %}{% for a in range(99) %}"
    "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "nesting": "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested namespaces": "{% set ns = namespace(x=1) %}{% for a in range(99) %}"
    "{% set ns.x = namespace(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "a replacement": "{% set x = 'x' * 100000 %}{{ x | replace('x', x) }}",
    "a method": "{% set x = 'x' * 100000 %}{{ x.replace('x', x) }}",
    "a join": "{% set x = 'x' * 100000 %}{{ x.join(x) }}",
    "a width": "{{ 'x' | center(10 ** 10) }}",
    "a width in a method": "{{ 'x'.ljust(10 ** 10) }}",
    "tabs": "{{ ('\t' * 1000).expandtabs(10 ** 9) }}",
    "a format": "{{ '%10000000000d' % 1 }}",
    "a format of a width": "{{ '%*d' % (10 ** 10, 1) }}",
    "a format filter": "{{ '%10000000000d' | format(1) }}",
    "a format method": "{{ '{:>10000000000}'.format(1) }}",
    "a nested format": "{{ '{:>{}}'.format(1, 10 ** 10) }}",
    "a date": "{{ strftime_now('%1000000000d') }}",
    "indentation": "{{ messages | tojson(indent=10 ** 10) }}",
    "batches": "{{ [1] | batch(10 ** 10, 'x') | list }}",
    "slices": "{{ [1] | slice(10 ** 10) | list }}",
    "sums of lists": "{% set x = [[1] * 1000] * 1000 %}{{ x | sum(start=[]) | length }}",
    "words": "{{ lipsum(n=99999, max=99999) }}",
    "a long template": "x" * 1_000_000,
    "deep blocks": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "deep brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
}


@pytest.fixture(scope="module")
def processor() -> Any:
    return tiny.build("llava", layers=1)[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_takes_too_much_is_refused_in_bounded_time_and_memory(processor: Any, name: str) -> None:
    processor.chat_template = HOSTILE[name]
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(AttnLensError, match="chat template"):
            templates.prompt(processor, MESSAGES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert time.process_time() - began < 30  # one or two, and tracemalloc makes it several times slower


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('System role not supported') }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ messages.x.y }}",
        [],
        {"x": "y"},
        7,
    ],
)
def test_a_template_that_fails_is_one_error_that_names_it(template: Any) -> None:
    model, processor = tiny.build("llava", layers=1)
    processor.chat_template = template
    with pytest.raises(AttnLensError, match="chat template"):
        attnlens.load(model=model, processor=processor).read(tiny.images("square", 1)[0]).trace("what is it?")


PIECES = st.sampled_from(
    [
        *("{% for i in range(99999) %}", "{% endfor %}", "{% set x = x ~ x %}", "{% set x = 'ab' * 9999 %}", "{{ x }}"),
        *("{{ messages }}", "{% if x %}", "{% endif %}", "{{ x * 99999 }}", "{{ x | replace('a', x) }}", "text ", "{#"),
        *(
            "{{ x | join(x) }}",
            "{% macro f() %}",
            "{% endmacro %}",
            "{{ f() }}",
            "{% set x = [x, x] %}",
            "{{ x | list }}",
        ),
        *("{{ x[::-1] }}", "{% if x in x %}", "{{ '%99999d' % 5 }}", "{{ x | tojson(indent=9999) }}", "{% block b %}"),
        *(
            "{% endblock %}",
            "{{ self.b() }}",
            "{{ 9 ** 9 ** 9 }}",
            "{{ x | sort | list }}",
            "{{ x | center(9 ** 9) }}",
            "%}",
        ),
    ]
)


def tried(pieces: list[str]) -> None:
    variables = {"messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": True, **SPECIAL}
    began = time.process_time()
    try:
        text = templates.render("".join(pieces), variables)
    except Exception:  # noqa: BLE001 - whatever it is, it is said in one sentence: see above
        text = ""
    assert len(text) <= templates.BUDGET
    assert time.process_time() - began < 30


@settings(max_examples=25, derandomize=True)
@given(st.lists(PIECES, max_size=12))
def test_any_template_ends(pieces: list[str]) -> None:
    tried(pieces)


@pytest.mark.slow
@settings(max_examples=2000)
@given(st.lists(PIECES, max_size=30))
def test_any_of_2000_templates_ends(pieces: list[str]) -> None:
    tried(pieces)
