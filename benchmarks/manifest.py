"""run.json: by which command and code a run's folder came about, so that it can go on, or be done again."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.suite import Case, Source, Suite
from recjax.config import to_dict
from recjax.errors import UserError
from recjax.hardware.software import describe_git
from recjax.training.checkpoint import experiment_identity
from recjax.whole_files import write_json

FILE = "run.json"


def describe_command(source: Source, device: str) -> dict[str, Any]:
    """Returns what was run, as it stands in a row's environment."""
    return {**dataclasses.asdict(source), "device": device}


def experiment_digest(case: Case, label: str) -> str:
    """Returns 16 hex digits that any value of the case's experiment changes, as the variant of that label has it.

    A command names a config by its path, and its suite by its name: this tells that what stands there was edited.
    """
    members = next((variant.members for variant in case.variants if variant.label == label), ())
    experiment = dataclasses.replace(case.experiment, transforms=members)
    values = experiment_identity(experiment) | {"parallel": to_dict(experiment.parallel)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(folder: Path, run_id: str, command: dict[str, Any], suite: Suite) -> None:
    """Writes which run it is, its command, what that asked for, and the state of the code."""
    content = {"run_id": run_id, "command": command, "experiments": _digests(suite), "git": describe_git()}
    write_json(folder / FILE, content, indent=1)


def _digests(suite: Suite) -> dict[str, str]:
    labels = [(case, variant.label) for case in suite.cases for variant in case.variants]
    return {f"{case.experiment.name}/{label}": experiment_digest(case, label) for case, label in labels}


def check_goes_on(folder: Path, command: dict[str, Any], suite: Suite) -> str:
    """Returns the run_id of the run that the folder holds, unfinished or finished, of this command by this code.

    Raises:
      UserError: it holds none, or another one; in one line.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"--resume: there is no {file}; leave --resume out, or give the folder of the run with --out")
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        run_id, asked = str(earlier["run_id"]), dict(earlier["command"])
        experiments, git = dict(earlier["experiments"]), dict(earlier["git"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume: {file} does not say what was run ({error!r}); leave --resume out") from error
    now = json.loads(json.dumps(command))
    if asked != now:
        names = [name for name in now if asked.get(name) != now[name]]
        seen = ", ".join(f"{name}={asked.get(name)!r}" for name in names)
        raise UserError(f"--resume: {folder} holds a run of another command ({seen}); repeat that one, or leave it out")
    edited = sorted(name for name, digest in _digests(suite).items() if experiments.get(name) != digest)
    if edited:
        raise UserError(
            f"--resume: {folder} was begun with another config of {', '.join(edited)}: one run must not mix them; undo "
            "the edit, or leave --resume out"
        )
    git_now = describe_git()
    if git.get("commit") != git_now["commit"]:
        raise UserError(
            f"--resume: {folder} was begun at commit {str(git.get('commit'))[:9]} and this is "
            f"{str(git_now['commit'])[:9]}: one run must not mix them; check that commit out, or leave --resume out"
        )
    if git.get("diff") != git_now.get("diff"):
        raise UserError(
            f"--resume: files of the repository were edited since {folder} was begun: one run must not mix them; undo "
            "the edits, or leave --resume out"
        )
    return run_id
