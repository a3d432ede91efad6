"""Torch datasets and data loaders as a `Dataset`, and datasets at another image size or number of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from inoculate.core.errors import InputError, one_line
from inoculate.core.rng import generator, seeded
from inoculate.data.dataset import Dataset, content_digest
from inoculate.data.decode import Pixels, UnreadableImageError, decode_image
from inoculate.data.decoded import choose_shape
from inoculate.data.pixels import DepthUnknownError, Payload
from inoculate.data.preprocessing import Preprocessing, format_size
from inoculate.data.tensors import uint8_images

TorchData = TorchDataset[Any] | DataLoader[Any]
Converter = Callable[[list[Any], int], tuple[Tensor, tuple[str, ...]]]  # images and the first's number -> uint8, notes
_BATCH = 64  # items read at a time
_SAMPLE = 64  # images that decide the shape of PIL images


@runtime_checkable
class HasClasses(Protocol):
    """A torch dataset that holds the names of its classes, as those of torchvision do."""

    classes: Sequence[str]


@runtime_checkable
class HasClassNumbers(Protocol):
    """A torch dataset that says which number each of its classes has in the labels."""

    class_to_idx: Mapping[str, int]


def dataset_from_torch(data: TorchData, seed: int, reading: Preprocessing) -> Dataset:
    """Every (image, label) of a torch dataset or data loader, in order.

    Images are C×H×W tensors or arrays (uint8, or floats in [0, 1]), PIL images, or uint8 arrays H×W or H×W×C. Of a data
    loader that shuffles, the dataset is read in its own order; one with its own sampler or collate function is read as
    it is. Random transforms draw from `seed`. `reading` matters for PIL images and H×W×C arrays only. Raises
    `InputError` naming the first image that cannot be converted.
    """
    inner = data.dataset if isinstance(data, DataLoader) else data
    name, classes = _name_and_classes(inner)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return Dataset.from_tensors(*data.tensors, classes, name)
    with seeded(seed, "read data"):  # the global state, which transforms draw from, is put back after
        items = _items(data, seed, name)
        first = list(islice(items, 1))
        if not first:
            raise InputError(f"{name}: there are no images")
        items = chain(first, items)
        convert: Converter = partial(_stack_tensors, name)
        if not _is_tensor(first[0][0]):
            head = list(islice(items, _SAMPLE))
            items = chain(head, items)
            sample = _spread_sample(inner, name) if inner is data else [image for image, _ in head]
            convert = _picture_converter(sample, name, reading)
        images: list[Tensor] = []
        labels: list[Any] = []
        notes: tuple[str, ...] = ()
        while batch := list(islice(items, _BATCH)):
            pixels, notes = convert([image for image, _ in batch], len(labels))
            if images and pixels.shape[1:] != images[0].shape[1:]:
                raise _shapes_differ(name, len(labels), pixels[0], images[0][0])
            images.append(pixels)
            labels += [label for _, label in batch]
    loaded = Dataset.from_tensors(torch.cat(images), _stack_labels(labels, name, classes), classes, name)
    return replace(loaded, notes=(*notes, *_order_notes(data), *loaded.notes))


def with_shape(data: Dataset, reading: Preprocessing) -> Dataset:
    """The dataset with the image size and the channels of `reading`; what is not said there is left as it is.

    Images are resized and cropped as files are; grey images are repeated for RGB.
    """
    images, notes, channels = data.images, [], reading.channels or data.channels
    size = reading.size or data.image_size
    if size != data.image_size or reading.resize is not None or reading.crop not in (None, 1):
        wanted = replace(reading, image_size=size, channels=data.channels)
        images = torch.from_numpy(np.stack([decode_image(_as_picture(image), wanted).pixels for image in images]))
        notes.append(f"images were resized from {format_size(data.image_size)} to {format_size(size)}: {wanted}")
    if channels > data.channels:
        images = images.expand(-1, 3, -1, -1)
        notes.append("grey images were repeated to three channels")
    elif channels < data.channels:
        images = torch.from_numpy(np.stack([np.asarray(_as_picture(image).convert("L")) for image in images]))[:, None]
        notes.append("RGB images were converted to grey")
    if not notes:
        return data
    digest = content_digest(images, data.labels, data.classes)
    return replace(data, images=images, digest=digest, notes=(*data.notes, *notes))


def _as_picture(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def _name_and_classes(data: Any) -> tuple[str, tuple[str, ...] | None]:
    while isinstance(data, Subset):
        data = data.dataset
    known = isinstance(data, HasClasses) and isinstance(data.classes, Sequence)
    classes = tuple(map(str, data.classes)) if known else None
    numbers = data.class_to_idx if isinstance(data, HasClassNumbers) else None
    if isinstance(numbers, Mapping) and set(numbers.values()) == set(range(len(numbers))):
        classes = tuple(str(each) for each in sorted(numbers, key=lambda each: numbers[each]))
    return type(data).__name__.lower(), classes


def _items(data: TorchData, seed: int, name: str) -> Iterator[tuple[Any, Any]]:
    """(image, label) of every item."""
    if isinstance(data, DataLoader) and not _reads_every_item_once(data):
        batches = (_pair(batch, name, "the data loader must yield (images, labels)") for batch in _read(data, name))
        for images, labels in batches:
            if len(images) != len(labels):
                raise InputError(
                    f"{name}: a batch has {len(images)} images and {len(labels)} labels: give one per image"
                )
            yield from zip(images, labels, strict=True)
        return
    workers = data.num_workers if isinstance(data, DataLoader) else 0
    inner = data.dataset if isinstance(data, DataLoader) else data
    loader = DataLoader(
        inner, _BATCH, num_workers=workers, collate_fn=_uncollated, generator=generator(seed, "read data")
    )
    for batch in _read(loader, name):
        yield from (_pair(item, name, "every item must be (image, label)") for item in batch)


def _read(loader: DataLoader[Any], name: str) -> Iterator[Any]:
    """The batches of a loader; what the dataset's own code raises becomes an `InputError`."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:  # whatever the user's code raises
            raise InputError(f"{name}: reading it failed ({type(error).__name__}: {one_line(error)})") from error
        yield batch


def _uncollated(batch: list[Any]) -> list[Any]:
    return batch


def _reads_every_item_once(loader: DataLoader[Any]) -> bool:
    """Whether a loader's batches are those of its dataset in some order, made in the ordinary way."""
    if loader.collate_fn is not default_collate or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and isinstance(loader.dataset, Sized) and len(sampler) == len(loader.dataset)
    return isinstance(sampler, SequentialSampler)


def _order_notes(data: TorchData) -> tuple[str, ...]:
    shuffled = isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler) and _reads_every_item_once(data)
    return ("the shuffled loader was read in its dataset's own order",) if shuffled else ()


def _pair(item: Any, name: str, expected: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        found = f"{len(item)} values" if isinstance(item, tuple | list) else type(item).__name__
        raise InputError(f"{name}: {expected}, got {found}: wrap it so that it does")
    return item[0], item[1]


def _is_tensor(image: Any) -> bool:
    """Whether an image is C×H×W numbers, not a PIL image or an array in PIL's layout."""
    if isinstance(image, np.ndarray):
        channels_last = image.ndim == 2 or image.shape[-1] in (1, 3, 4)
        return image.dtype != np.uint8 or not channels_last
    return isinstance(image, Tensor)


def _stack_tensors(name: str, images: list[Any], row: int) -> tuple[Tensor, tuple[str, ...]]:
    tensors = [torch.as_tensor(image) for image in images]
    for number, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise _shapes_differ(name, row + number, tensor, tensors[0])
    return uint8_images(torch.stack(tensors), name, row)


def _shapes_differ(name: str, row: int, image: Tensor, other: Tensor) -> InputError:
    return InputError(
        f"{name}: image {row} has shape {tuple(image.shape)}, earlier ones {tuple(other.shape)}: resize them to one"
    )


def _spread_sample(data: TorchDataset[Any], name: str) -> list[Any]:
    """Images from all over a dataset: those of one class often lie together."""
    items: Iterable[Any]
    if isinstance(data, IterableDataset) or not isinstance(data, Sized):
        items = islice(iter(data), _SAMPLE)
    else:
        items = (data[i] for i in range(0, len(data), max(1, len(data) // _SAMPLE)))
    return [_pair(item, name, "every item must be (image, label)")[0] for item in items]


def _picture_converter(sample: list[Any], name: str, reading: Preprocessing) -> Converter:
    """A function that decodes PIL images and arrays as image files are decoded."""
    own_size, own_channels = choose_shape([_payload(image, name) for image in sample], name)
    own = Preprocessing(image_size=own_size, channels=own_channels)
    wanted = reading.over(own)
    note = f"PIL images were read at {format_size(wanted.size or own_size)} pixels"

    def decode(image: Any, row: int) -> Pixels:
        try:
            return decode_image(_payload(image, name), wanted).pixels
        except UnreadableImageError as error:
            raise InputError(f"{name}: image {row} cannot be read ({error}): replace or remove it") from error
        except DepthUnknownError as error:
            raise InputError(
                f"{name}: image {row} has more than 8 bits: declare its range, such as value_range=(0, 65535)"
            ) from error

    def convert(images: list[Any], row: int) -> tuple[Tensor, tuple[str, ...]]:
        pixels = [decode(image, number) for number, image in enumerate(images, start=row)]
        return torch.from_numpy(np.stack(pixels)), (note,)

    return convert


def _payload(image: Any, name: str) -> Payload:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    raise InputError(f"{name}: images must be tensors, arrays or PIL images, got {type(image).__name__}")


def _stack_labels(labels: list[Any], name: str, classes: Sequence[str] | None) -> Any:
    """The labels of items as one tensor; names of `classes` as they are."""
    if classes is not None and all(isinstance(label, str) for label in labels):
        return labels
    try:
        return torch.stack([torch.as_tensor(label) for label in labels])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name}: labels must be numbers, one per image: use class numbers 0..K-1") from error
