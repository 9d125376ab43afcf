"""Renders a chat template within a budget of work: it comes with the checkpoint, from anybody, and is a program.

Jinja's sandbox keeps a template from the rest of the machine, not from its time and memory: a loop in a loop in a loop,
`'x' * 10 ** 10`, a string that doubles itself. So whatever a template does is paid for before it is done: a loop by its
rounds, an operation by the size of what it takes, and by that of what comes of it. What is rendered within the budget
is what transformers renders.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from attnlens import _upstream
from attnlens.errors import AttnLensError, first_line

BUDGET = 2_000_000
"""Characters, elements and steps for one prompt: a second or so. Real templates take some thousands."""
MAX_TEMPLATE = 100_000
"""Characters of a template; the longest real ones have 30,000."""
MAX_BITS = 4096
"""Of a whole number."""

_CALL = 100  # what calling costs, in steps
_MULTIPLYING = {
    "batch",
    "center",
    "expandtabs",
    "format",
    "indent",
    "join",
    "ljust",
    "replace",
    "rjust",
    "slice",
    "zfill",
}
_SQUARING = {"sum", "tojson"}  # with further arguments: lists added up, indentation
_REFUSED = ("lipsum", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")  # no prompt needs them
_WIDE = re.compile(r"\d{4,}|\{[^{}]*\{|%[-+ #0-9.]*\*")  # in a format: widths that make gigabytes

_left: ContextVar[list[int]] = ContextVar("left")


class BudgetExceeded(jinja2.TemplateError):
    """A template would take more than the budget."""


def prompt(processor: Any, messages: list[dict[str, Any]]) -> str:
    """The text that the processor's chat template makes of `messages`, up to where the answer begins.

    Raises AttnLensError where the template fails or takes too much. Only a processor with code of its own for this, of
    the user's or of a checkpoint that is trusted, is left to itself.
    """
    try:
        if not type(processor).apply_chat_template.__module__.startswith("transformers."):
            return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        template = processor.chat_template
        if isinstance(template, dict):
            template = template["default"]
        variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        return render(template, {**processor.tokenizer.special_tokens_map, **variables})
    except Exception as error:  # a template is a program, and may fail in any way
        why = f"no template is named {error}" if isinstance(error, KeyError) else first_line(error)
        raise AttnLensError(
            f"The chat template of {type(processor).__name__} cannot be used: {why}. Set processor.chat_template to "
            "one that takes a user's message of images and a text, or write the prompt into an adapter: prompt: "
            "{template: '... {images}{question} ...'}."
        ) from error


def render(template: str, variables: dict[str, Any]) -> str:
    """What transformers would make of a chat template. Raises whatever a template raises; `BudgetExceeded`."""
    if len(template) > MAX_TEMPLATE:
        raise BudgetExceeded(f"it has {len(template):,} characters")
    compiled = _compiled(template)
    token = _left.set([BUDGET])
    try:
        text = compiled.render(**variables)
        _spend(len(text))  # a list, which is paid by its elements, may be written in far more characters
        return text
    finally:
        _left.reset(token)


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> jinja2.Template:
    environment = _environment()
    tree = _Paying().visit(environment.parse(template))
    code = environment.compile(tree.set_environment(environment))
    return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def _spend(work: int) -> None:
    left = _left.get()  # none while a template is compiled, which keeps Jinja from computing constants in advance
    left[0] -= work
    if left[0] < 0:
        raise BudgetExceeded(f"it takes more than {BUDGET:,} steps and characters for one prompt")


def _size(*values: Any) -> int:
    """Characters and elements in all of `values`, however deep, once counted: each of them is paid for."""
    total, stack, most = 0, list(values), _left.get()[0]
    while stack and total <= most:
        one = stack.pop()
        weight = 1
        if isinstance(one, str | bytes | range):
            weight += len(one)
        elif isinstance(one, int):
            if one.bit_length() > MAX_BITS:
                raise BudgetExceeded(f"it computes a number of {one.bit_length():,} bits")
        elif isinstance(one, dict):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            stack += one
        elif isinstance(one, Namespace):
            stack.append(object.__getattribute__(one, "_Namespace__attrs"))
        total += weight
    _spend(total)
    return total


def _pay_call(name: str, receiver: Any, args: Iterable[Any]) -> None:
    """For what a function or a filter of that name may make of `receiver` and `args`."""
    given = [receiver, *args]
    counts = [abs(one) for one in given if isinstance(one, int)]
    sizes = [_size(one) for one in given if not isinstance(one, int)]
    _size(*counts)
    work = _CALL + sum(sizes)
    if name in _MULTIPLYING:
        work = _CALL + functools.reduce(int.__mul__, sizes, 1)
    elif name in _SQUARING and len(given) > 1:
        work = _CALL + sum(sizes) ** 2
    for count in counts:
        work *= 1 + count
    _spend(work)


def _check_widths(name: str, *formats: Any) -> None:
    if any(isinstance(one, str) and _WIDE.search(one) for one in formats):
        raise BudgetExceeded(f"{name} with such a width is not for a prompt")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = _size(left), _size(right)
        if operator == "*":
            factors = [
                abs(one) if isinstance(one, int) else size for one, size in zip((left, right), sizes, strict=True)
            ]
            if not all(isinstance(one, int | float) for one in (left, right)):
                _spend(factors[0] * factors[1])
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > MAX_BITS:
                raise BudgetExceeded(f"it computes a number of more than {MAX_BITS:,} bits")
        elif operator == "%" and isinstance(left, str):
            _check_widths("%", left)
            _pay_call("format", left, right if isinstance(right, tuple) else [right])
        made = super().call_binop(context, operator, left, right)
        _size(made)
        return made

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        name = getattr(__obj, "__name__", "")
        _pay_call(name, getattr(__obj, "__self__", None), [*args, *kwargs.values()])
        if name == "strftime_now":
            _check_widths(name, *args, *kwargs.values())
        made = super().call(__context, __obj, *args, **kwargs)
        _size(made)
        return made

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        made = super().wrap_str_format(value)
        if made is not None:
            _check_widths("format", value.__self__)
        return made


def _environment() -> _Environment:
    """transformers' own for chat templates, where everything has its price."""
    theirs = _upstream.chat_template_environment()
    made = _Environment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        extensions=[type(one) for one in theirs.extensions.values()],
        finalize=_paid_output,
    )
    made.globals.update(theirs.globals)
    made.filters.update({name: _paid(name, function) for name, function in theirs.filters.items()})
    for name in _REFUSED:
        for known in (made.globals, made.filters):
            if name in known:
                known[name] = functools.partial(_refuse, name)
    made.filters.update(attnlens_held=_held, attnlens_rounds=_rounds, attnlens_steps=_steps)
    return made


def _refuse(name: str, *_: Any, **__: Any) -> None:
    raise BudgetExceeded(f"{name} is not for a prompt")


def _paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that costs what it may make."""

    @functools.wraps(function)  # and Jinja's marks on it: which of them take the context first
    def paid(*args: Any, **kwargs: Any) -> Any:
        _pay_call(name, None, [*args, *kwargs.values()])
        if name == "format":
            _check_widths(name, *args[:1])
        made = function(*args, **kwargs)
        _size(made)
        return made

    return paid


@pass_context  # which also keeps Jinja from writing constants in advance
def _paid_output(_: Context, value: Any) -> Any:
    _size(value)
    return value


def _held(value: Any) -> Any:
    """`value`, of which some C code is to look at every element."""
    _size(value)
    return value


def _rounds(items: Any, steps: int) -> Any:
    """What a loop goes through, of so many steps a round."""
    held = items if hasattr(items, "__len__") else list(items)
    _spend((1 + len(held)) * steps)
    return held


def _steps(count: int) -> str:
    _spend(count)
    return ""


class _Paying(NodeTransformer):
    """Puts filters where a template's own code, rather than a function that it calls, does the work."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        steps = _count(node)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "attnlens_rounds", steps)
        if node.recursive:  # loop(...) goes through others
            node.body.insert(0, _paid_step(steps))
        return node

    def visit_Macro(self, node: Any) -> nodes.Node:  # noqa: N802
        steps = _count(node)
        self.generic_visit(node)
        node.body.insert(0, _paid_step(steps))
        return node

    visit_CallBlock = visit_Block = visit_Macro  # noqa: N815

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        text = sum(len(one.data) for one in node.nodes if isinstance(one, nodes.TemplateData))
        self.generic_visit(node)
        node.nodes.insert(0, _filtered(nodes.Const(text), "attnlens_steps"))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes), "join")

    def visit_List(self, node: Any) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        stored = getattr(node, "ctx", "load") != "load"  # names that are assigned to
        return node if stored else _filtered(node, "attnlens_held")

    visit_Tuple = visit_Dict = visit_List  # noqa: N815

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "attnlens_held")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "attnlens_held")
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if node.name not in ("defined", "undefined"):  # which look at the name itself
            node.node = _filtered(node.node, "attnlens_held")
        node.args = [_filtered(one, "attnlens_held") for one in node.args]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, "attnlens_held")
        return node


def _paid_step(steps: int) -> nodes.Output:
    return nodes.Output([_filtered(nodes.Const(steps), "attnlens_steps")])


def _filtered(node: Any, name: str, *args: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [nodes.Const(one) for one in args], [], None, None, lineno=node.lineno or 1)


def _count(node: nodes.Node) -> int:
    return 1 + sum(1 for _ in node.find_all(nodes.Node))
