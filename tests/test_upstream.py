"""Claims about what attnlens takes from transformers beyond its public face."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationMixin, LlavaForConditionalGeneration

import attnlens
from attnlens import _upstream
from attnlens._upstream import cache_name
from tests import tiny

QUESTION = "what color is it?"
HERE = cache_name(GenerationMixin.prepare_inputs_for_generation)


class NamesCache(LlavaForConditionalGeneration):
    """Remote code of today, for `cache`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, **inputs):
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return super().forward(**inputs, **{HERE: cache})


class NamesPast(LlavaForConditionalGeneration):
    """Remote code from before transformers 5.24, for `past_key_values`."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **inputs):
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return super().forward(**inputs, **{HERE: past_key_values})


class PreparesPast(NamesPast):
    """The same, with its own way to go on from a cache."""

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        made = super().prepare_inputs_for_generation(input_ids, **{HERE: past_key_values}, **kwargs)
        return {"past_key_values" if name == HERE else name: value for name, value in made.items()}


REMOTE = [NamesCache, NamesPast, PreparesPast]


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    return tiny.build("llava")


def told(model: Any, processor: Any) -> tuple[Any, ...]:
    reading = attnlens.load(model=model, processor=processor).read(tiny.images("landscape", 1)[0])
    return reading.answer(QUESTION, 4).tokens, reading.next_token(QUESTION), reading.trace(QUESTION).attention


@pytest.mark.parametrize("kind", REMOTE, ids=lambda kind: kind.__name__)
def test_a_model_is_given_its_cache_under_the_name_that_it_takes(plain, kind):
    model, processor = plain
    remote = kind(model.config).eval()
    remote.load_state_dict(model.state_dict())
    tokens, log_probs, attention = told(remote, processor)
    expected = told(model, processor)
    assert tokens == expected[0]
    torch.testing.assert_close(torch.as_tensor(log_probs), torch.as_tensor(expected[1]))
    torch.testing.assert_close(torch.as_tensor(attention), torch.as_tensor(expected[2]))
    assert "prepare_inputs_for_generation" not in vars(remote)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (NamesCache.forward, "cache"),
        (NamesPast.forward, "past_key_values"),
        (PreparesPast.prepare_inputs_for_generation, "past_key_values"),
    ],
)
def test_the_name_is_read_off_the_signature(call, expected):
    assert cache_name(call) == expected


def test_what_names_no_cache_is_given_what_generation_expects():
    assert cache_name(lambda input_ids, **inputs: None) == HERE


PACKAGE = Path(attnlens.__file__).parent
SUBMODULES = {found.name for found in pkgutil.iter_modules(transformers.__path__)}
EXPORTED_YET_PRIVATE = {name for name in dir(transformers) if re.fullmatch(r"\w+Layer(Mixin)?", name)} | {
    "cached_file",
    "get_image_processor_dict",
    "get_processor_dict",
    "get_video_processor_dict",
}
SYS_MODULES = ("sys", "modules")
NOT_TRANSFORMERS = {"_exit", "_replace"} | {  # of os, of named tuples, and of nnsight, torch, jinja2 and Pillow
    "_module",
    "_new",
    "_orig_mod",
    "_Namespace__attrs",
}
OURS = {
    "_host",
    "_prompt",
    "_columns",
    "_keys",
    "_pixels",
    "_prepared",
} | {  # of a lens and a reading, for the rest of the package
    path.stem for path in PACKAGE.rglob("_*.py")
}


def private_uses(source: str) -> Iterator[str]:
    """What of transformers' private side a module reaches for: "line: what"."""
    tree = ast.parse(source)
    packages, theirs = names_of_transformers(tree)
    own, skipped = members(tree), prose(tree)
    skipped |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and is_stored(node)}
    for node in ast.walk(tree):
        for what in _used(node, packages):
            if what not in own | OURS | NOT_TRANSFORMERS and id(node) not in skipped:
                yield f"{getattr(node, 'lineno', 0)}: {what}"
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        if {ast.unparse(base).split(".")[0] for base in bases} & (theirs | packages):
            yield from (f"{getattr(node, 'lineno', 0)}: {name}" for name in sorted(members(node)))


def _used(node: ast.AST, packages: set[str]) -> Iterator[str]:
    """Words of one node that name something private, or a name with an underscore that is not the module's own."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.startswith("transformers."))
    elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "transformers":
        private = SUBMODULES | EXPORTED_YET_PRIVATE
        names = [alias.name for alias in node.names]
        yield from ([node.module] if "." in node.module else [name for name in names if name in private])
    elif isinstance(node, ast.Attribute):
        of = node.value.id if isinstance(node.value, ast.Name) else ""
        submodule = of in packages and node.attr in SUBMODULES
        if submodule or node.attr in EXPORTED_YET_PRIVATE or is_private(node.attr) or (of, node.attr) == SYS_MODULES:
            yield node.attr
    elif isinstance(node, ast.keyword) and node.arg and is_private(node.arg):
        yield node.arg
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_path_or_private(node.value):
        yield node.value


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def is_path_or_private(text: str) -> bool:
    return is_private(text) or re.fullmatch(r"transformers(\.[a-z_]\w*)+\.?", text) is not None


def is_stored(node: ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store | ast.Del)


def names_of_transformers(tree: ast.AST) -> tuple[set[str], set[str]]:
    """What the package itself is called here, and what is imported from it or from what stands for it."""
    packages, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.asname or alias.name for alias in node.names if alias.name == "transformers"}
        elif isinstance(node, ast.ImportFrom) and node.module in ("transformers", "attnlens._upstream"):
            names |= {alias.asname or alias.name for alias in node.names}
    return packages, names


def members(tree: ast.AST) -> set[str]:
    """Names with an underscore that classes in `tree` define: methods, fields, and what they set on `self`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
                found |= {part.name} if isinstance(part, ast.FunctionDef) else set()
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def prose(tree: ast.AST) -> set[int]:
    """Docstrings, and what follows a value within an f-string."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    texts += [text for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for text in node.values[1:]]
    return {id(text) for text in texts if isinstance(text, ast.Constant)}


def test_one_module_reaches_for_the_private_side_of_transformers():
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    found = {str(path.relative_to(PACKAGE)): list(private_uses(source)) for path, source in sources.items()}
    assert found.pop("_upstream.py")
    assert {path: uses for path, uses in found.items() if uses} == {}


PRIVATE = [
    "import transformers.masking_utils",
    "from transformers.cache_utils import DynamicCache",
    "from transformers import models",
    "from transformers import DynamicLayer",
    "import transformers\ntransformers.utils.logging",
    "import transformers as hf\nhf.cache_utils",
    "import transformers\ntransformers.ProcessorMixin.get_processor_dict('here')",
    "import importlib\nimportlib.import_module('transformers.models.llava')",
    "import importlib\nimportlib.import_module(f'transformers.models.{name}')",
    "config._attn_implementation",
    "config._attn_implementation_internal = 'eager'",
    "model.language_model._prepare_position_ids_for_generation(ids, {})",
    "getattr(decoder, '_can_record_outputs', None)",
    "for name in ('preprocess', '_preprocess'): getattr(processor, name)",
    "mock.patch.multiple(module, _create=build)",
    "import sys\nsys.modules[type(module).__module__].eager_attention_forward",
    "import sys\nsys.modules.get('here')",
    "class Mine:\n    def _own(self): return self._theirs",
    "from transformers import DynamicCache\nclass Mine(DynamicCache):\n    _layer_type = None",
    "import transformers\nclass Mine(transformers.DynamicCache):\n    _layer_type = None",
    "from attnlens._upstream import OwnCacheLayer\nclass Mine(OwnCacheLayer):\n    def _own(self): pass",
    "def _backends(): pass\ngetattr(own, '_backends', ())",
]
PUBLIC = [
    "import transformers\ntransformers.AutoConfig",
    "from transformers import DynamicCache, logging, is_torchvision_available",
    "from attnlens._upstream import recorders\nrecorders(decoder, 'attentions')",
    "class Mine:\n    def __init__(self): self._own = 1\n    def other(self, mine): return mine._own + self._own",
    "class Mine:\n    _own = 1\n    def __len__(self): return self._own",
    "import sys\nsys.modules[module.__name__] = module",
    "def f():\n    'transformers.models.llava'",
    "f'transformers.{name} is no class'",
    "type(module).__module__",
    "getattr(self, f'{name}_proj')",
]


@pytest.mark.parametrize("source", PRIVATE)
def test_a_use_of_the_private_side_is_found(source):
    assert len(list(private_uses(source))) == 1


@pytest.mark.parametrize("source", PUBLIC)
def test_a_use_of_the_public_side_is_let_through(source):
    assert list(private_uses(source)) == []


def test_all_that_stands_for_the_private_side_is_used_and_says_what_for():
    tree = ast.parse((PACKAGE / "_upstream.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    offered = {name for name in functions if not is_private(name)}
    training = PACKAGE.parent / "benchmarks"
    others = (path for path in [*PACKAGE.rglob("*.py"), *training.rglob("*.py")] if path.name != "_upstream.py")
    elsewhere = "".join(path.read_text(encoding="utf-8") for path in others)
    assert {name for name in offered | set(_upstream.__all__) if not re.search(rf"\b{name}\b", elsewhere)} == set()
    assert {name for name in offered if not ast.get_docstring(functions[name])} == set()
