"""The files of `cluster/`, and what tests of them share."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(package: str) -> str:
    """The version that `constraints.txt` asks for."""
    (version,) = re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


def loaded(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def needed_to_install() -> set[str]:
    """Files and folders of the repository without which `pip install -c constraints.txt .` does not work."""
    project, find = PROJECT["project"], PROJECT["tool"]["setuptools"]["packages"]["find"]
    packages = {path.parent.name for pattern in find["include"] for path in ROOT.glob(f"{pattern}/__init__.py")}
    return {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"], *packages}


def unknown_options(command: str) -> set[str]:
    """Options of `ray start` in a shell command that the installed Ray does not have."""
    known = {option for parameter in start.params for option in parameter.opts}
    calls = re.findall(r"\bray start\b(.*)", command.replace("\\\n", " "))
    return {option for call in calls for option in re.findall(r"(?<!\S)--[a-z-]+", call)} - known
