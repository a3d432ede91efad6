"""The settings of a hardening beside the model, the data and the threat."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inoculate.core.errors import InputError
from inoculate.core.options import require_bool, require_count, require_nonnegative, require_positive
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing, Size
from inoculate.models.build import Stem
from inoculate.models.loading.load import ModelLike

MIN_TEST_IMAGES = 10


@dataclass(frozen=True)
class HardeningOptions:
    """How `harden` trains and measures, where its defaults do not fit.

    Args:
        epochs: passes over the training images, in place of a budget.
        batch_size: images per update.
        accumulate: pass each batch in so many parts, which saves memory.
        lr: peak learning rate. By default 0.002, for `small_cnn` 0.005; for a network that comes trained a tenth of it.
        augment: `none`, `digits`, `photos` or `shifts`; `auto` is `shifts` for colour images that are seen at least
            five times, else `none`.
        method_options: options of a method that is given by name, such as `{"steps": 7}`.
        teacher: a robust model for `ard` and `rslad`: a trained folder or a module.
        surrogates: trained folders or modules for `ensemble`, one network for `live_surrogate`.
        fallback: name of the method that continues, once, after a monitor has detected a failure.
        weights: file to load into the model, as `load_model` reads it.
        pretrained: start from the weights of timm or torchvision.
        outputs: what the model returns, as in `load_model`.
        normalize: normalisation to put in front of the model, such as `imagenet` or `0.5/0.25`.
        stem: first layer of a new network: `imagenet`, or `small` for small images.
        image_size: side in pixels, or height and width, at which images are read.
        preprocessing: how else images are read.
        limit: use only so many training images, balanced over the classes.
        test_images: how many test images are measured, at least 10.
        data_root: folder that is searched for a data SPEC before the hub.
        onnx: export the network to ONNX and check the export on adversarial images.
        certify: also prove the accuracy before and after, by interval and linear bounds. Without a method it trains
            `ibp`, what these bounds prove.
        seed: of every random draw.
        device: such as `cuda`. By default a module stays where it is and a model SPEC is built on the CPU.

    Raises `InputError` for a value that is out of range.
    """

    epochs: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    lr: float | None = None
    augment: str = "auto"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    teacher: ModelLike | None = None
    surrogates: tuple[ModelLike, ...] = ()
    fallback: str | None = None
    weights: str | os.PathLike[str] | None = None
    pretrained: bool = False
    outputs: str = "logits"
    normalize: str | None = None
    stem: Stem = "imagenet"
    image_size: Size | None = None
    preprocessing: Preprocessing = AS_THEY_ARE
    limit: int | None = None
    test_images: int = 500
    data_root: str | os.PathLike[str] | None = None
    onnx: bool = False
    certify: bool = False
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        require_count(batch_size=self.batch_size, accumulate=self.accumulate, test_images=self.test_images)
        for name in ("epochs", "limit"):
            if getattr(self, name) is not None:
                require_count(**{name: getattr(self, name)})
        self.reading  # noqa: B018 (its checks)
        if self.lr is not None:
            require_positive(lr=self.lr)
        require_nonnegative(seed=self.seed)
        require_bool(pretrained=self.pretrained, onnx=self.onnx, certify=self.certify)
        if self.test_images < MIN_TEST_IMAGES:
            raise InputError(f"test_images {self.test_images} is too few: give at least {MIN_TEST_IMAGES}")

    @property
    def reading(self) -> Preprocessing:
        """How images are read."""
        return Preprocessing(image_size=self.image_size).over(self.preprocessing)

    @property
    def helpers(self) -> tuple[ModelLike, ...]:
        """The other networks that the method uses."""
        return (*(() if self.teacher is None else (self.teacher,)), *self.surrogates)

    @property
    def declared(self) -> dict[str, str]:
        """What has to be said of the network wherever it is loaded: `outputs` and `normalize`, where they are given."""
        outputs = {} if self.outputs == "logits" else {"outputs": self.outputs}
        return outputs | ({} if self.normalize is None else {"normalize": self.normalize})
