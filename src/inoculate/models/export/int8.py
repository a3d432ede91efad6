"""ONNX files with weights and activations of eight bits, by onnxruntime's static quantisation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inoculate.core.errors import InputError, one_line

Array = Any


def quantise(source: Path, target: Path, input_name: str, calibration: Iterable[Array]) -> None:
    """Quantise the ONNX file `source` into `target`: QDQ format, weights per channel, activations per tensor.

    Weights use seven of their eight bits (`reduce_range`): sums of two products of eight bits overflow in onnxruntime's
    kernels on x86 processors without VNNI, so that the same file would give other outputs there.

    calibration: batches for the input `input_name`, on which the smallest and the largest activation of each tensor are
    measured. Raises `InputError` where onnxruntime cannot do it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime's own interface
        def __init__(self) -> None:
            self.batches: Iterator[Array] = iter(calibration)

        def get_next(self) -> dict[str, Array] | None:
            batch = next(self.batches, None)
            return None if batch is None else {input_name: batch}

    try:
        with TemporaryDirectory() as folder, _quiet():
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True
            )
    except Exception as error:  # onnxruntime's errors have no other common class
        raise InputError(
            f"onnxruntime cannot quantise {source.name} ({one_line(error)}): export it for a newer opset, or leave "
            "int8 out"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, onnxruntime's advice on the root logger is not printed."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
