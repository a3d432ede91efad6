import pytest
import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.hardening.export import export_checked

ROW = Row.measured(
    dataset="d", model="m", arm="a", attack="pgd", norm="linf", eps=0.1, protocol="white-box", correct=3, n=5,
    seconds=0.0, seed=0,
)  # fmt: skip


class Unstable(nn.Module):
    """Computes something else while it is traced."""

    def forward(self, x):
        logits = x.flatten(1)[:, :2]
        return logits.flip(1) if torch.onnx.is_in_onnx_export() else logits


def test_the_exported_file_is_checked_on_adversarial_images(hardened):
    pytest.importorskip("onnxruntime")
    check = hardened.facts.onnx
    assert (check.attack, check.images, check.different) == ("autoattack", 16, 0)
    assert check.correct == hardened.after[-1].correct
    assert "onnxruntime on the images of autoattack" in hardened.card
    assert (hardened.folder / "model.onnx").read_bytes() == hardened.onnx


def test_an_export_that_predicts_otherwise_is_refused():
    pytest.importorskip("onnxruntime")
    images, labels = torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError, match="disagree on 5 of 5"):
        export_checked(Unstable(), images, labels, ROW)
