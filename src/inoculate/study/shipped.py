"""The study files that come with the package."""

from __future__ import annotations

from pathlib import Path


def shipped_studies() -> dict[str, Path]:
    """Path of every shipped study file by name (`demo`, `paper`, …): the wheel's, in a checkout those of `studies/`."""
    installed = Path(__file__).with_name("shipped")
    folder = installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
