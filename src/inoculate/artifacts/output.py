"""The life of an output folder: checked before any work, resumable meanwhile, complete with its last file.

Every job that writes a model folder goes through the same steps:

    output = Output(folder, spec, MODEL_FOLDER)
    output.check(inputs=[model, weights], data=data)     # refuses before anything is written or lost
    if not output.finished:
        work = output.work()                             # an interrupted run left its checkpoints here
        ...
        output.publish(lambda folder: save_model(folder, network, run=output.run), history)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.specs import fingerprint
from inoculate.core.errors import InputError

RUN = "run"  # the key of a description that holds the fingerprint of the run which wrote it
_WORK = ".unfinished-"


@dataclass(frozen=True)
class FolderLayout:
    """The files of one kind of output folder.

    description: a JSON object that says what the folder holds, and under `run` the fingerprint of what it was made
    from. content: the file that it describes. derived: what was measured of the content; removed before new content is
    written. completion: a JSON file that is written last. recognises: whether a parsed description is of this kind.
    """

    description: str
    content: str
    derived: tuple[str, ...]
    completion: str
    recognises: Callable[[Any], bool]

    @property
    def names(self) -> tuple[str, ...]:
        """Every file that a job may write into such a folder."""
        return (self.completion, *self.derived, self.description, self.content)

    def matches(self, folder: Path) -> bool:
        """Whether `folder` was written by such a job, and its description is not another program's file."""
        try:
            return (folder / self.description).is_file() and self.recognises(read_json(folder / self.description))
        except InputError:  # not JSON
            return False


@dataclass(frozen=True)
class Output:
    """The folder of one job. `spec` holds everything that its files are made from, as JSON values.

    work_spec: what of it decides the checkpoints, where that is less: a run that differs in the rest resumes from them.
    """

    folder: Path
    spec: Mapping[str, Any]
    layout: FolderLayout
    work_spec: Mapping[str, Any] | None = None

    @property
    def run(self) -> str:
        """The fingerprint of `spec`; the job stores it in its description under `run`."""
        return fingerprint(self.spec)

    @property
    def work_folder(self) -> Path:
        """Where this run keeps checkpoints until it has finished; it may not exist yet."""
        spec = self.spec if self.work_spec is None else self.work_spec
        return self.folder / f"{_WORK}{fingerprint(spec)}"

    def check(
        self,
        inputs: Iterable[str | os.PathLike[str] | None] = (),
        data: object = None,
        protected: Iterable[str] = (),
    ) -> None:
        """Raise `InputError` if writing here would lose a file that the job reads or that it did not write.

        inputs: paths that the job reads (other strings, such as model names, are harmless). data: the images' folder,
        if they come from one; the output must not lie in it, because a folder there is a class. protected: names of
        files that this job never replaces.
        """
        place = self.folder.resolve()
        for each in inputs:
            path = Path(each or "").resolve()
            if each is not None and (
                (path.is_dir() and path == place) or (path.is_file() and path == place / self.layout.content)
            ):
                raise InputError(
                    f"the output folder {self.folder} is where {each} is read from, which would be lost: "
                    "give another folder"
                )
        self._check_foreign_files()
        for name in protected:
            if (self.folder / name).is_file():
                raise InputError(f"{self.folder / name} describes the model that is there now: give another folder")
        if isinstance(data, str | os.PathLike) and Path(data).is_dir():
            images = Path(data).resolve()
            if place == images or images in place.parents:
                raise InputError(
                    f"the output folder {self.folder} lies in the data folder {data}, where a folder is a class: "
                    "give a folder elsewhere"
                )

    @property
    def finished(self) -> bool:
        """Whether this very run has finished in this folder before."""
        complete = self.layout.matches(self.folder) and (self.folder / self.layout.completion).is_file()
        return complete and bool(read_json(self.folder / self.layout.description).get(RUN) == self.run)

    def work(self) -> Path:
        """The work folder, made if needed; raises `InputError` if nothing can be written there.

        An interrupted run with the same spec finds its checkpoints in it.
        """
        return require_writable(self.work_folder)

    def publish(self, write: Callable[[Path], object], completed: Any) -> None:
        """Replace the content of the folder and mark it complete.

        First the stale outputs are removed. Then `write(folder)` writes the content and the description, which must
        hold `run`. The completion file, with the JSON value `completed`, is written last; then the work folder is
        removed. A crash on the way leaves a folder that is not `finished` and can be resumed.
        """
        remove_files(self.folder, (self.layout.completion, *self.layout.derived))
        write(self.folder)
        written = read_json(self.folder / self.layout.description).get(RUN)
        if written != self.run:
            raise ValueError(f"{self.layout.description} holds run {written!r}: store Output.run, {self.run!r}, in it")
        write_json(self.folder / self.layout.completion, completed)
        shutil.rmtree(self.work_folder, ignore_errors=True)

    def _check_foreign_files(self) -> None:
        """Refuse to overwrite files of these names that no job of ours wrote."""
        if self.layout.matches(self.folder):
            return
        # a run that was stopped between writing the content and its description
        interrupted = any(path.is_dir() for path in self.folder.glob(f"{_WORK}*"))
        for name in self.layout.names:
            if (self.folder / name).exists() and not (interrupted and name == self.layout.content):
                raise InputError(
                    f"{self.folder / name} is not of a model that was trained here and would be lost: "
                    "give another output folder"
                )


def require_writable(folder: Path) -> Path:
    """`folder`, made if needed; raises `InputError` if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".inoculate-") as probe:  # a name no other process has
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): give another output folder") from error
    return folder


def require_writable_file(path: Path) -> Path:
    """`path`, its folder made if needed; raises `InputError` if no file can be written there."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file to write")
    require_writable(path.parent)
    return path


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files of `folder`; those that are not there are ignored."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
