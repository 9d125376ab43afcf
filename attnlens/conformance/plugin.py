"""A pytest plug-in: `pytest --attnlens-adapter my.yaml` proves an adapter in a project's own test run.

Each check of each model type is a test of its own, on a tiny random model of the type; with `--attnlens-model FOLDER`,
on that checkpoint instead. Nothing heavy is imported unless one of the options is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attnlens.errors import AttnLensError

if TYPE_CHECKING:
    from attnlens.conformance._report import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("attnlens")
    group.addoption(
        "--attnlens-adapter",
        action="append",
        default=[],
        metavar="FILE",
        help="prove this attnlens adapter on tiny random models of its model types; may be given several times",
    )
    group.addoption(
        "--attnlens-model",
        default=None,
        metavar="MODEL",
        help="prove the adapter on this checkpoint (a folder or a Hugging Face id) instead",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    given, model = config.getoption("--attnlens-adapter"), config.getoption("--attnlens-model")
    if model is not None and not given:
        raise pytest.UsageError(
            "--attnlens-model says on which model; name what to prove, too: --attnlens-adapter FILE"
        )
    for adapter in given:
        items.extend(_tests(session, adapter, model))


def _tests(session: pytest.Session, adapter: str, model: str | None) -> Iterator[pytest.Item]:
    from attnlens.adapters import _library

    try:
        path = _library.path_of(adapter)
        spec = _library.read(path)
    except AttnLensError as error:
        raise pytest.UsageError(str(error)) from None

    from attnlens.conformance._checks import CHECKS

    file = _AdapterFile.from_parent(session, path=path.absolute())
    for subject in [model] if model is not None else spec.model_types:
        proof = _Proof(adapter, subject, tiny=model is None)
        for check in CHECKS:
            yield _CheckItem.from_parent(file, name=f"{subject}[{check}]", check=check, proof=proof)


class _AdapterFile(pytest.File):
    """What the tests of one adapter hang on."""

    def collect(self) -> Iterator[pytest.Item]:
        return iter(())


class _Proof:
    """The report of one adapter on one model, made when the first of its tests runs."""

    def __init__(self, adapter: str, subject: str, *, tiny: bool) -> None:
        self._adapter, self._subject, self._tiny = adapter, subject, tiny
        self._report: Report | None = None

    def report(self) -> Report:
        from attnlens.conformance._report import check_model, check_tiny

        if self._report is None:
            check = check_tiny if self._tiny else check_model
            self._report = check(self._subject, self._adapter)
        return self._report


class _CheckItem(pytest.Item):
    """One check as a test."""

    def __init__(self, *, check: str, proof: _Proof, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check, self._proof = check, proof

    def runtest(self) -> None:
        found = {finding.check: finding for finding in self._proof.report().findings}
        finding = found.get(self._check) or next(iter(found.values()))  # the only one, where no model could be built
        if finding.passed is None:
            pytest.skip(finding.detail)
        if not finding.passed:
            raise AttnLensError(finding.detail)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, AttnLensError):
            return f"{self.name}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name
