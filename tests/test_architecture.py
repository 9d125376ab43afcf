"""Claims about the house: imports run downward, torch and nnsight stay where they belong, and starting is cheap.

The floors are those of the house drawing in docs/how-it-works.md. Every import counts: at the top of a module, inside a
function, and under TYPE_CHECKING.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnlens"

FLOORS = [
    {"errors", "_versions", "_torchvision_check", "_renamed"},
    {"_checks", "_files", "_devices"},
    {"_storage"},
    {"geometry"},
    {"_images", "montage", "_video"},
    {"importance", "adapters", "_upstream"},
    {"lens", "pocket"},
    {"maps", "answers", "boxes", "croppers"},
    {"recipes", "conformance"},
    {"evaluate", "analysis", "show", "doctor"},
    {"attnlens"},
    {"cli"},
]
HEIGHT = {part: height for height, parts in enumerate(FLOORS) for part in parts}

UPWARD = {
    (
        "recipes",
        "show",
    ): "Result.save draws its own picture; show itself knows nothing above importance",
    ("conformance", "attnlens"): "findings and drafts name the version of attnlens that made them",
}
LENS = [
    {"_layouts", "_cost"},
    {"_trace"},
    {"_model.kv_cache", "_model.broken", "_model.exclusive", "_inputs.templates", "_capture.tracer"},
    {"_model.structure", "_inputs", "_capture.arrays", "_values"},
    {"_model.generator", "_capture", "_words"},
    {"_host"},
    {"_text", "_prefix", "_next_tokens", "_pixels"},
    {"_observed"},
    {"_reading"},
    {"_lens"},
    {"_checkpoint"},
    {"_loading"},
    {"lens"},
]
"""The rooms of `lens`, and its single modules, by the same rule; a module named apart stands on a floor of its own."""
LENS_HEIGHT = {part: height for height, parts in enumerate(LENS) for part in parts}
LAYOUTS_KNOW = {"errors", "_checks", "_renamed", "_storage", "geometry", "adapters", "_upstream"}
NEVER_TORCH = {
    "boxes",
    "importance",
    "adapters",
    "montage",
    "errors",
    "_checks",
    "_renamed",
    "_storage",
    "_files",
    "_versions",
    "_torchvision_check",
    "_video",
    "geometry",
    "_images",
    "pocket",
    "show",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name; a package goes by its folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The part of the house a module belongs to: 'attnlens.lens._lens' -> 'lens'; the public face is 'attnlens'."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "attnlens"


def room_of(module: str) -> str:
    """The same within `lens`: 'attnlens.lens._capture.passes' -> '_capture', unless it stands apart in `LENS`."""
    names = module.split(".")[2:]
    apart = ".".join(names[:2])
    return apart if apart in LENS_HEIGHT else names[0] if names else "lens"


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it; `from package import name` counts as package.name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports from the top: from attnlens..."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(path: Path) -> set[str]:
    """Parts of the house that a module imports."""
    found = set()
    for name in imports(path):
        if name.split(".")[0] != "attnlens":
            continue
        # `import attnlens` and `from attnlens import load` go through the public face, `from attnlens import maps` not.
        part = part_of(name)
        found.add(part if part in HEIGHT else "attnlens")
    return found


def edges() -> Iterator[tuple[str, str, str]]:
    for path in modules():
        importer = part_of(module_name(path))
        # The public face names every part, and imports each when it is first used.
        if importer != "attnlens":
            yield from ((importer, imported, module_name(path)) for imported in imported_parts(path) - {importer})


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_every_module_has_a_floor():
    homeless = {module_name(path) for path in modules() if part_of(module_name(path)) not in HEIGHT}
    assert not homeless, f"give these a floor in FLOORS, and in the drawing: {sorted(homeless)}"


def test_imports_run_downward():
    upward = {
        f"{module} imports {imported}"
        for importer, imported, module in edges()
        if HEIGHT[imported] > HEIGHT[importer] and (importer, imported) not in UPWARD
    }
    assert not upward


def circle(edges: Iterable[tuple[str, str]]) -> set[str]:
    """What imports itself by way of others."""
    below: dict[str, set[str]] = {}
    for importer, imported in edges:
        below.setdefault(importer, set()).add(imported)
        below.setdefault(imported, set())
    while free := {part for part, parts in below.items() if not parts}:
        below = {part: parts - free for part, parts in below.items() if part not in free}
    return set(below)


def test_no_parts_import_each_other_in_a_circle():
    assert circle((importer, imported) for importer, imported, _ in edges()) == set()


def module_edges() -> Iterator[tuple[str, str]]:
    """Which module imports which, in the whole package; a door is left out where it hands on what stands behind it."""
    known = {module_name(path) for path in modules()}
    for path in modules():
        for name in imports(path):
            found = name if name in known else name.rpartition(".")[0]
            if found in known and found != module_name(path):
                yield module_name(path), found


def test_no_modules_import_each_other_in_a_circle():
    """A room's own modules do not go through its door, and no other circle is left."""
    doors = {module_name(path) for path in modules() if path.name == "__init__.py"}
    assert circle(edge for edge in module_edges() if not doors & set(edge)) == set()
    own = ((one, other) for one, other in module_edges() if other in doors and one.startswith(f"{other}."))
    inside = {f"{one} -> {other}" for one, other in own if not one.endswith("__main__")}
    assert {edge for edge in inside if not edge.endswith("-> attnlens") and "_layouts" not in edge} == set()


def test_the_rooms_of_lens_import_downward():
    lens = "attnlens.lens"
    inner = {(one, other) for one, other in module_edges() if one.startswith(lens) and other.startswith(lens)}
    homeless = {one for edge in inner for one in edge if room_of(one) not in LENS_HEIGHT}
    assert not homeless, f"give these a floor in LENS: {sorted(homeless)}"
    upward = {
        f"{one} imports {other}"
        for one, other in inner
        if room_of(one) != room_of(other) and LENS_HEIGHT[room_of(other)] >= LENS_HEIGHT[room_of(one)]
    }
    assert not upward


def test_what_is_excepted_is_needed():
    assert set(UPWARD) <= {(importer, imported) for importer, imported, _ in edges()}


def test_only_the_tracer_imports_nnsight():
    users = {module_name(path) for path in modules() if any(name.split(".")[0] == "nnsight" for name in imports(path))}
    assert users == {"attnlens.lens._capture.tracer"}


def test_no_module_imports_torchvision():
    assert not [path for path in modules() if any(name.split(".")[0] == "torchvision" for name in imports(path))]


def test_parts_that_work_on_arrays_and_pictures_never_import_torch():
    heavy = {"torch", "transformers", "accelerate", "nnsight"}
    users = {
        module_name(path)
        for path in modules()
        if part_of(module_name(path)) in NEVER_TORCH and heavy & {name.split(".")[0] for name in imports(path)}
    }
    assert not users


def test_layouts_of_image_tokens_know_arrays_and_no_tensors():
    found = {name for path in (PACKAGE / "lens" / "_layouts").glob("*.py") for name in imports(path)}
    foreign = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"attnlens"}
    assert foreign <= {"numpy", "PIL", "einops"}
    ours = {name for name in found if name.startswith("attnlens.") and not name.startswith("attnlens.lens._layouts")}
    assert {part_of(name) for name in ours} <= LAYOUTS_KNOW


@pytest.mark.parametrize(
    "part",
    sorted(NEVER_TORCH - {"pocket"}) + ["pocket.scenes", "cli", "doctor", "conformance.plugin", "conformance._types"],
)
def test_nothing_that_such_a_part_imports_loads_torch(part):
    done = run_python(f"import sys, attnlens.{part}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr or "torch was loaded"


def test_importing_attnlens_loads_nothing_heavy():
    done = run_python("import sys, attnlens; print(*sys.modules)")
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "attnlens" in loaded
    assert not loaded & {"torch", "transformers", "nnsight", "numpy", "scipy", "PIL", "pydantic", "typer", "rich"}


def test_importing_attnlens_takes_less_than_a_tenth_of_a_second():
    code = "import time; start = time.perf_counter(); import attnlens; print(time.perf_counter() - start)"
    assert min(float(run_python(code).stdout) for _ in range(5)) < 0.1


def test_help_works_without_torch():
    blocked = "import sys; sys.modules.update(torch=None, transformers=None, nnsight=None); "
    done = run_python(blocked + "sys.argv = ['attnlens', '--help']; from attnlens.cli import app; app()")
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_every_public_name_can_be_imported():
    done = run_python("import attnlens; [getattr(attnlens, name) for name in attnlens.__all__]")
    assert done.returncode == 0, done.stderr


def test_dir_lists_the_public_names_and_an_unknown_one_is_an_attribute_error():
    import attnlens

    assert {"load", "ask", "ImportanceMap", "maps"} <= set(dir(attnlens))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        attnlens.lode  # noqa: B018 - reading it is the test


def test_what_the_commands_print_is_text_without_its_control_characters():
    for path in (PACKAGE / "cli").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert path.name == "_output.py" or "Text(" not in source, f"{path.name} prints with Text, not with plain"
