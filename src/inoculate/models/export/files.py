"""A network as a file for deployment: ONNX, ONNX in eight bits, TorchScript. Normalisation is inside."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError, one_line
from inoculate.core.extras import require
from inoculate.core.outputs import logits_of
from inoculate.models.acceleration.cached_convolutions import CachedConv2d
from inoculate.models.acceleration.compiling import uncompiled
from inoculate.models.acceleration.small_maps import SmallMapConv2d
from inoculate.models.class_names import names_in_metadata
from inoculate.models.export.int8 import quantise
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.torchscript import ScriptedModel, load_torchscript


def write_onnx(model: nn.Module, path: Path, image_shape: tuple[int, int, int]) -> None:
    """Write `model` (images in [0, 1], C×H×W = `image_shape` → logits) as ONNX in fp32, with a free batch size.

    Raises `InputError` if the network cannot be exported.
    """
    require("onnx", "onnx", "writing ONNX files")
    free = {"images": {0: "batch"}, "logits": {0: "batch"}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the newer exporter needs a further package
            torch.onnx.export(
                traceable(model), (torch.rand(2, *image_shape),), str(path), input_names=["images"],
                output_names=["logits"], dynamic_axes=free, dynamo=False,
            )  # fmt: skip
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise InputError(
            f"the network cannot be exported to ONNX ({one_line(error)}): replace that operation, or leave ONNX out"
        ) from error


def write_int8(model: nn.Module, path: Path, calibration: Tensor) -> None:
    """Write `model` as ONNX with weights and activations of eight bits, by onnxruntime's static quantisation.

    calibration: images (N×C×H×W in [0, 1]) on which the ranges of the activations are measured. A model that is read
    from an ONNX file is quantised in that file's own graph. Raises `InputError` if the network cannot be exported.
    """
    for package in ("onnx", "onnxruntime"):
        require(package, "onnx", "writing int8 files")
    with TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        if isinstance(model, OnnxModel):
            source = model.path
        else:
            write_onnx(model, source, tuple(calibration.shape[1:]))  # type: ignore[arg-type]
        images = OnnxModel(source, convert=False).images
        batches = images.batches(images.prepared(calibration.detach().cpu()).to(images.dtype))
        quantise(source, path, images.name, [each.contiguous().numpy() for each in batches])


def write_torchscript(model: nn.Module, path: Path, image_shape: tuple[int, int, int]) -> None:
    """Write `model` (images in [0, 1], C×H×W = `image_shape` → logits) as a traced TorchScript file.

    Raises `InputError` if the network cannot be traced.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecated, but such files will be in use for years
            example = torch.rand(2, *image_shape)
            traced = torch.jit.trace(traceable(model), example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(path))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the network cannot be traced as TorchScript ({one_line(error)}): replace that operation, or leave "
            "TorchScript out"
        ) from error


def write_class_names(path: Path, names: Sequence[str]) -> None:
    """Write into an ONNX file what its outputs are called, so that they are matched with data by name."""
    import onnx

    proto = onnx.load(str(path))
    if not names_in_metadata({each.key: each.value for each in proto.metadata_props}):
        proto.metadata_props.add(key="class_names", value=json.dumps(list(names)))
        onnx.save(proto, str(path))


def read_back(path: Path, images: Tensor) -> nn.Module:
    """The network in a file as it will be run: ONNX by onnxruntime alone, TorchScript by torch. Nothing is unpickled.

    images: N×C×H×W in [0, 1], on which it is tried, one by itself and all together. Raises `InputError` if the file
    cannot be read, or does not run on them.
    """
    module = OnnxModel(path, convert=False) if path.suffix == ".onnx" else load_torchscript(path).eval()
    try:
        with torch.no_grad():
            for some in (images[:1], images):
                module(some.cpu())
    except (InputError, RuntimeError) as error:
        raise InputError(
            f"the exported file does not run on batches of other sizes ({one_line(error)}): look for a size that the "
            "network's forward fixes"
        ) from error
    return module


def traceable(model: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode that returns its logits alone and leaves its input as it is.

    Raises `InputError` where the model cannot be copied.
    """
    if any(isinstance(each, OnnxModel) and each.network is None for each in model.modules()):
        raise InputError("the network is run by onnxruntime and has no conversion to torch: use its ONNX file")
    others = {str(each.dtype) for each in model.parameters() if each.is_floating_point()} - {"torch.float32"}
    if others:
        raise InputError(f"the network has weights of {', '.join(sorted(others))}: export model.float()")
    try:
        plain = copy_module(uncompiled(model)).cpu().eval()
    except Exception as error:  # a lock, an open file, a function
        raise InputError(f"the network cannot be copied ({one_line(error)}): give it as an nn.Module") from error
    if isinstance(plain, ScriptedModel):  # a trace cannot go through it, and it is exported as it is
        return plain.module
    for module in plain.modules():
        if type(module) in (SmallMapConv2d, CachedConv2d):  # exporters know the plain layer only
            module.__class__ = nn.Conv2d
    return LogitsOnly(plain).eval()


class LogitsOnly(nn.Module):
    """`model` as a module that returns its logits alone, whatever else it returns, and does not edit its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.model(x.clone()))
        return logits


Writer = Callable[[nn.Module, Path, Tensor], None]
# By format: writes a model to a path; the images (N×C×H×W in [0, 1]) calibrate int8 and give the others their shape.
WRITERS: dict[str, Writer] = {
    "onnx": lambda model, path, images: write_onnx(model, path, tuple(images.shape[1:])),  # type: ignore[arg-type]
    "int8": write_int8,
    "torchscript": lambda model, path, images: write_torchscript(model, path, tuple(images.shape[1:])),  # type: ignore[arg-type]
}
SUFFIXES = {"onnx": ".onnx", "int8": ".onnx", "torchscript": ".ts"}
