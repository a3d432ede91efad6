"""The images that fail first, as tiles of the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from inoculate.report.failures import Failure, eps_of_steps
from inoculate.report.html.images import data_uri
from inoculate.report.overview import FirstFailures

BUDGET = 1_500_000  # bytes of data URIs of all galleries


@dataclass(frozen=True)
class Tile:
    """One image: data URIs of its clean and its attacked version (empty: not kept), and what it is taken for.

    steps: JSON, for every eps of the gallery the wrong class, or nothing while the image is classified correctly.
    """

    failure: Failure
    clean: str
    attacked: str
    steps: str

    @property
    def place(self) -> str:
        """Where the image comes from, in short: its file, its row of a table, or its number."""
        source = self.failure.source.rpartition("/")[2]
        return source.rpartition(".parquet ")[2] if ".parquet " in source else source or f"image {self.failure.number}"


@dataclass(frozen=True)
class Gallery:
    """The tiles of one network, or dataset; `epsilons` are the stops of its slider."""

    title: str
    owner: str
    tiles: list[Tile]
    epsilons: list[float]

    @property
    def start(self) -> int:
        """The stop at which the first of the images is wrong."""
        first = min((tile.failure.eps for tile in self.tiles), default=0.0)
        return next((place for place, eps in enumerate(self.epsilons) if eps >= first), 0)

    @property
    def attacked(self) -> bool:
        """Whether its tiles show the attacked images, too."""
        return all(tile.attacked for tile in self.tiles)


def galleries(found: Sequence[FirstFailures]) -> list[Gallery]:
    """The galleries of a page, each with as many images as fit the budget."""
    share = BUDGET // max(1, len(found))
    return [_gallery(each, share) for each in found]


def first_tiles(found: Sequence[Gallery], most: int = 5) -> list[tuple[str, Tile]]:
    """The first tiles with a picture and their owners, in turn from every gallery; the same picture only once."""
    turns = zip_longest(*([(each.owner, tile) for tile in _telling(each.tiles)] for each in found))
    tiles: dict[str, tuple[str, Tile]] = {}
    for owner, tile in (pair for turn in turns for pair in turn if pair):
        tiles.setdefault(tile.attacked or tile.clean, (owner, tile))
    return sorted(list(tiles.values())[:most], key=lambda pair: pair[1].failure.eps)


def _telling(tiles: Sequence[Tile]) -> list[Tile]:
    """Tiles with a picture: the first, the first that needs an attack, then the others."""
    seen = [tile for tile in tiles if tile.clean]
    attacked = [tile for tile in seen[1:] if tile.failure.eps][:1]
    return [*seen[:1], *attacked, *(tile for tile in seen[1:] if tile not in attacked)]


def _gallery(found: FirstFailures, budget: int) -> Gallery:
    tiles: list[Tile] = []
    epsilons = eps_of_steps(found.images)
    for failure in found.images:
        clean, attacked = ("" if pixels is None else data_uri(pixels) for pixels in (failure.clean, failure.attacked))
        budget -= len(clean) + len(attacked)
        if budget < 0 and tiles:
            break
        known = dict(failure.steps)
        tiles.append(Tile(failure, clean, attacked, json.dumps([known.get(eps, "") for eps in epsilons])))
    return Gallery(found.title, found.owner, tiles, epsilons)
