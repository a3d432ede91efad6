"""ONNX files as classifiers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inoculate.artifacts.files import file_digest
from inoculate.core.errors import InputError, one_line
from inoculate.core.extras import require
from inoculate.models.class_names import names_in_metadata
from inoculate.models.findings import Finding
from inoculate.models.onnx.gradients import require_gradient
from inoculate.models.onnx.interface import ImageInput, Output, image_input, logits_output
from inoculate.models.onnx.module import OnnxModule
from inoculate.models.onnx.nodes import UnsupportedError, read_graph, read_proto, uses_half

COMPARED = 32  # images on which a conversion is compared with onnxruntime
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2  # relative to each logit, and of the logits' spread

Way = Literal["whole", "mapped", "in batches"]


class OnnxModel(nn.Module):
    """The classifier in an ONNX file: float images in [0, 1], B×C×H×W → logits.

    It is converted to torch operations (`network`), which have gradients and run on any device. At its first images the
    conversion is compared with onnxruntime; from then on it computes every output, and onnxruntime is not used. Where
    there is no conversion, or the outputs differ, `obstacle` says why, and onnxruntime computes the outputs on the CPU,
    without gradients. Such a model cannot be copied.

    Where the file fixes the batch size, onnxruntime runs images in batches of that size. So does the conversion, unless
    it gives the same for all images at once, or, for a batch of one, mapped over them. `image_shape` is the (C, H, W)
    that the file takes, with None where any size is taken.

    classes: of the data, if known; it tells the logits among several outputs. convert: whether to convert the file at
    all; if not, onnxruntime computes every output, as it will where the file is deployed.

    Raises `InputError` if the file cannot be read, or is not a classifier of images.
    """

    def __init__(self, path: Path, classes: int | None = None, *, convert: bool = True) -> None:
        super().__init__()
        require("onnxruntime", "onnx", f"model {path}")
        proto = read_proto(path)
        self.path, self._session, self._digest = path, _session(path), (file_digest(path) or "")[:20]
        self.class_names = names_in_metadata(self._session.get_modelmeta().custom_metadata_map)
        self.images = image_input(path, proto)
        outputs = [Output(each.name, each.type, each.shape) for each in self._session.get_outputs()]
        self.output = logits_output(path, outputs, classes)
        self.image_shape = self.images.shape
        self.way: Way = "whole"
        self.tolerance = HALF_TOLERANCE if uses_half(proto) else TOLERANCE
        self.difference: float | None = None
        self.obstacle: str | None = None
        self.network: OnnxModule | None = None
        self._choices = _choices(path, self.images, self.output, outputs)
        if convert:
            self._convert(proto)

    def _convert(self, proto: Any) -> None:
        """Convert the file to torch operations, or say in `obstacle` why it cannot be."""
        try:
            graph = read_graph(proto, self.images.name, self.output.name)
            require_gradient(graph, self.images.whole_numbers)
            self.network = OnnxModule(graph).eval()
        except UnsupportedError as error:
            self.obstacle = f"there is no differentiable conversion of {error}"
        except Exception as error:  # torch's errors have no other common class
            self.obstacle = f"its conversion fails ({one_line(error)})"

    def forward(self, x: Tensor) -> Tensor:
        if any(want not in (None, got) for want, got in zip(self.image_shape, x.shape[1:], strict=True)):
            raise InputError(
                f"model {self.path} takes {_times(self.image_shape)} images and these are {_times(x.shape[1:])}: "
                "load the data at the model's image size and channels"
            )
        if self.network is not None and self._session is not None and len(x):
            self._compare(x[:COMPARED].detach())
        if self.network is not None:
            return self._converted(x)
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                f"no gradient reaches the images: in model {self.path} {self.obstacle or 'nothing is converted'}; "
                "attack it with square, which needs none"
            )
        return self._original(x)

    @property
    def findings(self) -> list[Finding]:
        """What was decided about the file, and what cannot be done with it; complete after the first images."""
        found = list(self._choices)
        if self.obstacle is not None:
            found.append(Finding(
                f"model {self.path} is run by onnxruntime, without gradients, because {self.obstacle}",
                "attack it with square",
            ))  # fmt: skip
        elif self.tolerance == HALF_TOLERANCE and self.difference is not None:
            found.append(Finding(
                f"model {self.path} computes in half precision, and is measured in single",
                f"its logits differ from onnxruntime's by {self.difference:.1g} of their spread",
            ))  # fmt: skip
        return found

    def extra_repr(self) -> str:
        """The file, and how well the conversion agrees with onnxruntime; of a file that onnxruntime runs its digest."""
        if self.network is None:
            return f"{self.path} {self._digest}"
        agreement = "" if self.difference is None else f", within {self.difference:.1g} of onnxruntime"
        return f"{self.path}{agreement}"

    def _compare(self, x: Tensor) -> None:
        """Use the conversion from now on if it gives onnxruntime's outputs for these images, else give it up."""
        batch, why = self.images.batch, ""
        with torch.no_grad():
            expected = self._original(x.cpu()).double()
            spread = float(expected.max() - expected.min())
            for self.way in _ways(batch, len(x)):
                try:
                    found = self._converted(x).cpu().double()
                except UnsupportedError as error:
                    why = f"there is no differentiable conversion of {error}"
                    continue
                except Exception as error:  # torch's errors have no other common class
                    why = f"its conversion fails ({one_line(error)})"
                    continue
                allowed = self.tolerance * (spread + expected.abs())
                if found.shape == expected.shape and bool(((found - expected).abs() <= allowed).all()):
                    self._session = None
                    self.difference = float((found - expected).abs().max()) / max(spread, 1e-30)
                    return
                why = "its conversion gives other outputs"
        self.network, self.obstacle = None, why

    def _converted(self, x: Tensor) -> Tensor:
        """Logits by the conversion, with gradients."""
        assert self.network is not None
        network, filled = self.network, x if len(x) else torch.cat([x, x.new_zeros((1, *x.shape[1:]))])
        images = self.images.prepared(filled).to(self._float)
        if self.way == "mapped":
            logits = torch.vmap(lambda image: network(image[None])[0])(images)
        elif self.way == "whole":
            logits = network(images)
        else:
            logits = torch.cat([network(each) for each in self.images.batches(images)])
        return _flat(logits[: len(x)]).to(x.dtype)

    @property
    def _float(self) -> torch.dtype:
        own = torch.float64 if self.images.dtype is torch.float64 else torch.float32
        weights = () if self.network is None else self.network.parameters()
        return own if own is torch.float64 else next((each.dtype for each in weights), own)  # of a copy in bf16

    def _original(self, x: Tensor) -> Tensor:
        """Logits by onnxruntime."""
        images = self.images.prepared(x.detach().cpu()).to(self.images.dtype)
        outputs = [self._run(each) for each in self.images.batches(images)]
        return _flat(torch.cat(outputs)[: len(x)]).to(x)

    def _run(self, images: Tensor) -> Tensor:
        try:
            (logits,) = self._session.run([self.output.name], {self.images.name: images.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have no other common class
            raise InputError(
                f"model {self.path} cannot be run on {_times(images.shape)} images ({_cause(error)}): export it "
                "again for this image size, with a free batch size"
            ) from error
        return torch.from_numpy(logits)


def onnx_image_shape(path: Path) -> tuple[int | None, ...]:
    """The (C, H, W) that an ONNX file takes, None where any size is taken; its weights are not loaded."""
    return image_input(path, read_proto(path, weights=False)).shape


def onnx_findings(model: nn.Module) -> list[Finding]:
    """What was decided about the ONNX file inside `model`, if there is one."""
    return [each for module in model.modules() if isinstance(module, OnnxModel) for each in module.findings]


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, not printed
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other common class
        raise InputError(
            f"model {path} cannot be loaded ({_cause(error)}): export it to ONNX again, for an older opset or with "
            "this onnxruntime's"
        ) from error


def _ways(batch: int | None, images: int) -> tuple[Way, ...]:
    """The ways to run so many images through a graph made for this batch size, fastest first.

    A batch of just the right size does not tell whether another would be run right.
    """
    if batch is None:
        return ("whole",)
    whole: tuple[Way, ...] = ("whole",) if batch != images else ()
    return (*whole, "mapped", "in batches") if batch == 1 else (*whole, "in batches")


def _choices(path: Path, images: ImageInput, output: Output, outputs: Sequence[Output]) -> list[Finding]:
    found = []
    if images.channels_last:
        found.append(Finding(f"model {path} takes batch × height × width × channels", "images are transposed for it"))
    if images.whole_numbers:
        found.append(Finding(
            f"model {path} takes whole numbers, so pixels are multiplied by 255 and rounded for it",
            "gradients pass the rounding as if it were not there; changes below half a level of 255 have no effect",
        ))  # fmt: skip
    if len(outputs) > 1:
        others = ", ".join(each.name for each in outputs if each != output)
        found.append(
            Finding(f"model {path} has several outputs", f"'{output.name}' is used as the logits, not {others}")
        )
    return found


def _flat(logits: Tensor) -> Tensor:
    """B×K×1×1 as B×K."""
    return logits.flatten(1) if logits.ndim > 2 and logits.shape[2:].numel() == 1 else logits


def _cause(error: Exception) -> str:
    """What onnxruntime says, without its error numbers and places in its source."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"/\S+\.(?:cc|h):\d+ [^(]*\([^()]*\) ", "", text)
    return one_line(ValueError(re.sub(r"^Load model from .* failed:\s*", "", text)))


def _times(shape: Sequence[int | None]) -> str:
    return "×".join("any" if size is None else str(size) for size in shape)
