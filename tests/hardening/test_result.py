"""`Hardened`: rows, table, saving and loading."""

import shutil

import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.hardening.result import Hardened
from inoculate.models.loading.load import load_model

FILES = ("README.md", "history.json", "model.json", "records.npz", "results.json", "weights.safetensors")


@pytest.mark.smoke
def test_it_iterates_over_the_rows_before_and_after(hardened):
    assert [*hardened] == [*hardened.before, *hardened.after]
    assert len(hardened) == 8
    assert hardened[-1] == hardened.after[-1]
    assert hardened.table()["accuracy"] == [row.accuracy for row in hardened]
    assert "before and after hardening" in hardened._repr_html_()
    assert "<svg" in hardened._repr_html_()
    assert repr(hardened).count("->") == 4
    assert len(repr(hardened).splitlines()) == 5 + len(hardened.warnings)


def test_every_row_has_per_image_results(hardened):
    assert list(hardened.per_image) == [*hardened]
    for row, result in hardened.per_image.items():
        assert (len(result), int(result.right.sum())) == (row.n, row.correct)
        assert result.images is None


def test_save_and_load_are_inverse(hardened, tmp_path):
    again = Hardened.load(hardened.save(tmp_path / "copy"))
    for name in ("before", "after", "history", "facts", "threat", "run", "warnings", "method", "onnx"):
        assert getattr(hardened, name) == getattr(again, name), name
    assert again.card == (tmp_path / "copy" / "README.md").read_text()
    assert again.card == hardened.card.replace(str(hardened.folder), str(tmp_path / "copy"))
    for row, result in hardened.per_image.items():
        assert torch.equal(result.right, again.per_image[row].right)
        assert torch.equal(result.predicted, again.per_image[row].predicted)
    images = torch.rand(3, 1, 12, 12)
    assert torch.allclose(hardened.model(images), again.model(images), atol=1e-5)
    for name in FILES:
        assert (tmp_path / "copy" / name).is_file(), name


def test_weights_and_card_have_the_same_permissions(hardened):
    modes = {(hardened.folder / name).stat().st_mode & 0o777 for name in ("weights.safetensors", "README.md")}
    assert len(modes) == 1


def test_saving_replaces_another_model_but_no_foreign_files(hardened, tmp_path):
    shutil.copytree(hardened.folder, tmp_path / "old")
    (tmp_path / "old" / "model.onnx").write_bytes(b"of other weights")
    Hardened.load(tmp_path / "old").save(tmp_path / "old")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md is not of a model"):
        hardened.save(tmp_path)


def test_a_folder_without_a_whole_result_is_refused(hardened, tmp_path):
    shutil.copytree(hardened.folder, tmp_path / "part")
    (tmp_path / "part" / "history.json").unlink()
    for folder in (tmp_path, tmp_path / "part"):
        with pytest.raises(InputError, match="holds no complete hardened model"):
            Hardened.load(folder)


def test_the_lines_of_the_card_load_the_network(hardened):
    names = {"images": torch.rand(3, 1, 12, 12)}
    exec(hardened.card.split("```python\n")[1].split("```")[0], names)
    assert torch.allclose(names["logits"], hardened.model(names["images"]), atol=1e-5)


def test_load_model_reads_the_folder(hardened):
    images = torch.rand(3, 1, 12, 12)
    assert torch.allclose(load_model(hardened.folder)(images), hardened.model(images), atol=1e-5)


def test_a_result_is_reported_as_a_page(hardened, tmp_path):
    page = hardened.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert "small_cnn" in page.read_text()
