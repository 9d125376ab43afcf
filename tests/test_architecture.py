"""Claims about the house: imports run downward, torch and nnsight stay where they belong, and starting is cheap.

The floors are those of the house drawing in docs/how-it-works.md. Every import counts: at the top of a module, inside a
function, and under TYPE_CHECKING.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnlens"

FLOORS = [
    {"errors", "versions", "torchvision_check"},
    {"files"},
    {"storage"},
    {"geometry"},
    {"images", "canvas", "video"},
    {"importance", "adapters", "upstream"},
    {"lens", "pocket"},
    {"maps", "answers", "boxes", "croppers"},
    {"recipes", "conformance"},
    {"evaluate", "attribution", "show", "doctor"},
    {"attnlens"},
    {"cli", "pocket.train"},
]
HEIGHT = {part: height for height, parts in enumerate(FLOORS) for part in parts}

UPWARD = {
    (
        "recipes",
        "show",
    ): "Result.save draws its own picture; show itself knows nothing above importance",
    ("conformance", "attnlens"): "findings and drafts name the version of attnlens that made them",
}
LAYOUTS_KNOW = {"errors", "storage", "geometry", "adapters", "upstream"}
NEVER_TORCH = {
    "boxes",
    "importance",
    "adapters",
    "canvas",
    "errors",
    "storage",
    "files",
    "versions",
    "torchvision_check",
    "video",
    "geometry",
    "images",
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
    """The part of the house a module belongs to: 'attnlens.lens._capture.tracer' -> 'lens'; the public face is 'attnlens'."""
    names = module.split(".")
    if names[1:3] == ["pocket", "train"]:
        return "pocket.train"
    if len(names) == 1:
        return "attnlens"
    return "cli" if names[1].startswith("cli") else names[1]


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


def test_no_parts_import_each_other_in_a_circle():
    below: dict[str, set[str]] = {part: set() for part in HEIGHT}
    for importer, imported, _ in edges():
        below[importer].add(imported)
    while True:
        free = {part for part, parts in below.items() if not parts}
        if not free:
            break
        below = {part: parts - free for part, parts in below.items() if part not in free}
    assert not below, f"circle: {below}"


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
    found = {name for path in (PACKAGE / "lens" / "layouts").glob("*.py") for name in imports(path)}
    foreign = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"attnlens"}
    assert foreign <= {"numpy", "PIL"}
    ours = {name for name in found if name.startswith("attnlens.") and not name.startswith("attnlens.lens._layouts")}
    assert {part_of(name) for name in ours} <= LAYOUTS_KNOW


@pytest.mark.parametrize(
    "part",
    sorted(NEVER_TORCH - {"pocket"}) + ["pocket.scenes", "cli", "doctor", "conformance.plugin", "conformance.types"],
)
def test_nothing_that_such_a_part_imports_loads_torch(part):
    done = run_python(f"import sys, attnlens.{part}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr or "torch was loaded"


def test_importing_attnlens_loads_nothing_heavy():
    done = run_python("import sys, attnlens; print(*sys.modules)")
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "attnlens" in loaded
    assert not loaded & {"torch", "transformers", "nnsight", "numpy", "scipy", "PIL", "pydantic", "typer", "rich"}


def test_importing_attnlens_takes_less_than_a_third_of_a_second():
    code = "import time; start = time.perf_counter(); import attnlens; print(time.perf_counter() - start)"
    assert min(float(run_python(code).stdout) for _ in range(3)) < 0.3


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
    for path in PACKAGE.glob("cli*.py"):
        source = path.read_text(encoding="utf-8")
        assert path.name == "cli_output.py" or "Text(" not in source, f"{path.name} prints with Text, not with plain"
