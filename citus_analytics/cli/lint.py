"""The command `lint`: what to look at, and how findings are printed."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError, coerce_resource_to_filename
from sqlalchemy import MetaData

from citus_analytics.cli.failures import Exit, ExitError, printable
from citus_analytics.cli.output import write, write_json
from citus_analytics.cli.words import plural
from citus_analytics.errors import ArgumentError
from citus_analytics.lint import RULES, lint_metadata, lint_migrations

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Collection, Sequence

    from citus_analytics.lint import Finding, Version


def lint(arguments: Namespace) -> None:
    """Look at metadata and at migrations, and print what a cluster would refuse or regret.

    Raises:
        ExitError: Something was found, or a target cannot be looked at.
        ArgumentError: A target or a code is none.
    """
    if arguments.explain is not None:
        write(explanation(arguments.explain))
        return
    targets = arguments.targets or _default_targets()
    findings = _findings(targets, arguments.citus, arguments.ignore)
    _print(findings, arguments)
    if findings:
        raise ExitError(f"{plural(len(findings), 'finding')} in {', '.join(targets)}.")


def explanation(code: str) -> str:
    """Return what there is to say about a code.

    Raises:
        ArgumentError: There is no such code.
    """
    rule = RULES.get(code.upper())
    if rule is None:
        raise ArgumentError(
            f"{code!r} is no code of the linter; they are {', '.join(sorted(RULES))}."
        )
    said: list[str] = [rule.severity]
    if rule.since is not None:
        said.append("since Citus {}.{}".format(*rule.since))
    if rule.until is not None:
        said.append("before Citus {}.{}".format(*rule.until))
    return f"{rule.code} ({', '.join(said)}): {rule.title}.\n\n{rule.explanation}"


def _findings(targets: Sequence[str], citus: Version, ignore: Collection[str]) -> list[Finding]:
    """Return the findings in all metadata as one, and in all folders as one."""
    kinds: dict[bool, list[str]] = {}
    for target in targets:
        is_metadata = ":" in target and not Path(target).exists()
        kinds.setdefault(is_metadata, []).append(target)
    return [
        finding
        for is_metadata, named in kinds.items()
        for finding in (
            lint_metadata(*map(_metadata, named), citus=citus, ignore=ignore)
            if is_metadata
            else lint_migrations(*named, citus=citus, ignore=ignore)
        )
    ]


def _metadata(target: str) -> MetaData:
    """Return the metadata that `module:attribute` is, or that its declarative base has."""
    module, _, attribute = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: object = importlib.import_module(module)
    except Exception as error:  # Whatever a module of somebody else's does wrong.
        raise ExitError(
            f"{module!r} cannot be imported from {here}: {type(error).__name__}: {error}",
            Exit.USAGE,
        ) from error
    for name in attribute.split("."):
        value = getattr(value, name, None)
    metadata = getattr(value, "metadata", value)
    if not isinstance(metadata, MetaData):
        raise ExitError(
            f"{module}:{attribute} is {type(value).__name__}; name a MetaData of SQLAlchemy's, or "
            "a declarative base, such as myapp.models:Base.",
            Exit.USAGE,
        )
    return metadata


def _default_targets() -> list[str]:
    """Return the places in which the configuration of the current folder has revisions."""
    ini = Path("alembic.ini")
    if not ini.exists():
        raise ArgumentError(
            "nothing to look at: name a folder with migrations, or metadata as package.module:Base "
            "(here is no alembic.ini that says where migrations are)."
        )
    try:
        scripts = ScriptDirectory.from_config(Config(str(ini)))
    except CommandError as error:
        raise ArgumentError(f"alembic.ini does not say where migrations are: {error}") from error
    places = map(coerce_resource_to_filename, scripts.version_locations or [scripts.versions])
    return [os.path.relpath(place) for place in places]


def _print(findings: list[Finding], arguments: Namespace) -> None:
    if arguments.format == "json":
        version = "{}.{}".format(*arguments.citus)
        write_json({"citus": version, "findings": [asdict(finding) for finding in findings]})
    elif arguments.format == "github":
        write(*map(_annotation, findings))
    elif findings:
        write(*(printable(str(finding)) for finding in findings))
    else:
        write("No findings.")


def _annotation(finding: Finding) -> str:
    """Return a finding as a workflow command of GitHub Actions."""
    place = "" if finding.path is None else f"file={_property(finding.path)},line={finding.line},"
    message = finding.message if finding.path else f"{finding.subject}: {finding.message}"
    return f"::{finding.severity} {place}title={finding.code}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
