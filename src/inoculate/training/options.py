"""Options of the job `train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inoculate.core.options import require_count, require_one_of, require_positive
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing, Size
from inoculate.models.build import Stem
from inoculate.models.loading.load import ModelLike


@dataclass(frozen=True)
class TrainingOptions:
    """Options of `train` beside model, data, method and threat.

    Options:
        batch_size: images per update; at most all of them.
        lr: peak learning rate.
        stem: first layer of a new network: `imagenet`, or `small` for small images.
        augment: `none`, `digits`, `photos` or `shifts`.
        precision: `auto` (bf16 where the device is faster in it), `bf16` or `fp32`.
        accumulate: pass each batch in so many parts, which saves memory.
        method_options: of a method that is given by name, such as `{"steps": 7, "average": 0.99}`.
        teacher: a robust trained folder or module, for `ard` and `rslad`.
        surrogates: trained folders or modules for `ensemble`, one network for `live_surrogate`.
        fallback: name of the method with which the training continues, once, after a monitor has detected a failure.
        image_size: side in pixels, or height and width, at which images are read.
        preprocessing: how else images are read.
        limit: use only so many training images, balanced over the classes.
        data_root: folder that is searched for a data SPEC before the hub.
        tracker: `tensorboard` (needs an output folder), `mlflow`, `wandb` or `trackio`.
        seed: of every random draw.
        device: `cpu` or `cuda`; None is the module's own, `cpu` for a new network.

    Raises `InputError` for a value out of its range.
    """

    batch_size: int = 64
    lr: float = 2e-3
    stem: Stem = "imagenet"
    augment: str = "none"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    accumulate: int = 1
    method_options: Mapping[str, Any] = field(default_factory=dict)
    teacher: ModelLike | None = None
    surrogates: tuple[ModelLike, ...] = ()
    fallback: str | None = None
    image_size: Size | None = None
    preprocessing: Preprocessing = AS_THEY_ARE
    limit: int | None = None
    data_root: str | os.PathLike[str] | None = None
    tracker: str | None = None
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        require_count(batch_size=self.batch_size, accumulate=self.accumulate)
        require_positive(lr=self.lr)
        require_one_of(("imagenet", "small"), stem=self.stem)
        require_one_of(("auto", "bf16", "fp32"), precision=self.precision)
        if self.limit is not None:
            require_count(limit=self.limit)
        self.reading  # noqa: B018 (its checks)

    @property
    def reading(self) -> Preprocessing:
        """How images are read."""
        return Preprocessing(image_size=self.image_size).over(self.preprocessing)

    @property
    def helpers(self) -> tuple[ModelLike, ...]:
        """The other networks that the method uses."""
        return (*(() if self.teacher is None else (self.teacher,)), *self.surrogates)
