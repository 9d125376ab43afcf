"""What `make lock` writes: the versions that are installed here, or the oldest that pyproject.toml allows.

python .ci/lock.py installed > constraints.txt
python .ci/lock.py floors > build/floors.txt
"""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("plot", "peft", "dev", "docs")  # those that the Makefile installs
HEADER = "# Made by `make lock`, which installs attnlens[dev,docs] into a fresh environment; do not edit."
NOT_OURS = {"attnlens", "pip"}


def installed() -> list[str]:
    """Every package here as name==version. A local version such as 2.13.0+cpu exists on some indexes only: without."""
    found = {
        one.name.lower().replace("_", "-"): one.version.partition("+")[0] for one in importlib.metadata.distributions()
    }
    return [HEADER] + [f"{name}=={version}" for name, version in sorted(found.items()) if name not in NOT_OURS]


def floors() -> list[str]:
    """The lower bound of every dependency in pyproject.toml, and of the extras' packages, as name==version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    bounds = (re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", line) for line in wanted)
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


if __name__ == "__main__":
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"][2:]
    if "{}.{}".format(*sys.version_info) != oldest:
        # A package's newest version for a newer Python may not exist for an older one; the other way round it does.
        sys.exit(f"A lock is made with the oldest Python that attnlens allows: make lock PYTHON=python{oldest}")
    print(*{"installed": installed, "floors": floors}[sys.argv[1]](), sep="\n")
