import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from inoculate.artifacts.files import write_json, write_text
from inoculate.artifacts.output import FolderLayout, Output, require_writable, require_writable_file
from inoculate.core.errors import InputError

LAYOUT = FolderLayout(
    description="model.json",
    content="weights.bin",
    derived=("README.md", "results.json"),
    completion="history.json",
    recognises=lambda value: isinstance(value, dict) and "sha256" in value,
)


def output(folder, **spec):
    return Output(folder, {"seed": 0, **spec}, LAYOUT)


def write(job, content="weights"):
    def write_content(folder):
        write_text(folder / "weights.bin", content)
        write_json(folder / "model.json", {"sha256": "0", "run": job.run})
        write_text(folder / "README.md", content)

    return write_content


@pytest.mark.smoke
def test_a_published_run_is_finished_and_its_work_folder_is_gone(tmp_path):
    job = output(tmp_path / "out")
    job.check()
    assert not job.finished
    work = job.work()
    assert work.is_dir()
    job.publish(write(job), [{"update": 1}])
    assert job.finished
    assert not work.exists()
    assert json.loads((tmp_path / "out" / "history.json").read_text()) == [{"update": 1}]
    assert not output(tmp_path / "out", seed=1).finished, "another run"


def test_an_interrupted_run_finds_its_work_folder_again(tmp_path):
    (output(tmp_path).work() / "checkpoint").write_text("1")
    assert (output(tmp_path).work() / "checkpoint").read_text() == "1"
    assert not (output(tmp_path, seed=1).work() / "checkpoint").exists()


def test_only_the_work_spec_decides_the_work_folder(tmp_path):
    one, other = (Output(tmp_path, {"onnx": onnx}, LAYOUT, work_spec={"seed": 0}) for onnx in (True, False))
    assert one.work_folder == other.work_folder
    assert one.run != other.run


def test_a_crash_while_publishing_leaves_an_unfinished_folder_that_can_be_resumed(tmp_path):
    earlier, job = output(tmp_path, seed=1), output(tmp_path)
    earlier.publish(write(earlier), [])
    write_text(tmp_path / "results.json", "[]")
    job.work()

    def crash(folder):
        write_text(folder / "weights.bin", "new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.publish(crash, [])
    assert not job.finished
    assert not earlier.finished
    assert not (tmp_path / "results.json").exists(), "measured on the old content"
    assert job.work_folder.is_dir()
    job.check()
    job.publish(write(job), [])
    assert job.finished


def test_publishing_without_the_fingerprint_is_an_error(tmp_path):
    job = output(tmp_path)
    with pytest.raises(ValueError, match="store Output"):
        job.publish(lambda folder: write_json(folder / "model.json", {"sha256": "0"}), [])
    assert not job.finished


@pytest.mark.parametrize("name", LAYOUT.names)
def test_foreign_files_are_refused(tmp_path, name):
    write_text(tmp_path / name, "mine")
    with pytest.raises(InputError, match=rf"{name} is not of a model that was trained here"):
        output(tmp_path).check()


def test_content_of_an_interrupted_publication_is_not_foreign(tmp_path):
    job = output(tmp_path)
    job.work()
    write_text(tmp_path / "weights.bin", "half")
    job.check()


def test_inputs_and_data_are_not_overwritten(tmp_path):
    job = output(tmp_path / "out")
    job.publish(write(job), [])
    job.check(inputs=["resnet18", None, tmp_path / "elsewhere"])
    for given in (tmp_path / "out", str(tmp_path / "out" / "weights.bin")):
        with pytest.raises(InputError, match="is read from, which would be lost"):
            job.check(inputs=[given])
    with pytest.raises(InputError, match="lies in the data folder"):
        job.check(data=tmp_path)
    job.check(data="digits")
    with pytest.raises(InputError, match=r"README\.md describes the model that is there now"):
        job.check(protected=["README.md"])


def test_a_folder_or_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        require_writable(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="is a folder: give the name of a file"):
        require_writable_file(tmp_path)
    assert require_writable_file(tmp_path / "new" / "rows.json").parent.is_dir()
    assert not any((tmp_path / "new").iterdir())


def test_runs_that_start_together_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as several:
        assert set(several.map(require_writable, [tmp_path / "store"] * 400)) == {tmp_path / "store"}
    assert not any((tmp_path / "store").iterdir())
