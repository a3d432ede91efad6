"""Tiny random networks with exact margins: a mixed-integer program over the steps of a network."""

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix
from torch import nn

from inoculate.certification.bounds.margins import boxes_of
from inoculate.certification.bounds.nonlinear import LeakyReLU, MaxPooled
from inoculate.certification.bounds.region import Region

SHAPE = (1, 5, 5)


class Residual(nn.Module):
    """Two branches that meet, a ReLU in place, and pooling."""

    def __init__(self, pool):
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2)
        self.two, self.skip = nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Conv2d(2, 2, 1)
        self.pool, self.relu = pool, nn.ReLU(inplace=True)
        self.last = nn.LazyLinear(3)

    def forward(self, x):
        x = self.relu(self.norm(self.one(x)))
        out = self.two(x)
        out += self.skip(x)
        return self.last(self.pool(self.relu(out)).flatten(1))


def random_network(seed):
    """One of four kinds of networks for images of `SHAPE`, with random weights and statistics; three classes."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(25, 6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.1),
            nn.Linear(5, 3),
        ),
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=2, dilation=2), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2, 2, 1),
            nn.Flatten(), nn.Linear(18, 3),
        ),
        lambda: Residual(nn.AdaptiveAvgPool2d(1)),
        lambda: Residual(nn.MaxPool2d(2, 1)),
    ]  # fmt: skip
    model = kinds[seed % len(kinds)]().eval()
    model(torch.zeros(1, *SHAPE))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.6)
                if "running_var" in name:
                    value.abs_().add_(0.5)
    return model


def exact_margins(graph, x, y, threat):
    """The least true logit minus each logit (K) for one image (1×C×H×W) in L∞, by a mixed-integer program."""
    region = Region.of(x.double(), threat)
    boxes = boxes_of(graph, region)
    starts = np.cumsum([0, *graph.sizes])
    low, high = (torch.cat([getattr(box, end).flatten() for box in boxes]).numpy() for end in ("low", "high"))
    program = _Program(list(low), list(high))
    for number, node in enumerate(graph.nodes, start=1):
        shapes = [graph.shape_of(i) for i in node.inputs]
        columns = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in node.inputs])
        rows = np.arange(starts[number], starts[number + 1])
        if node.operator.affine:
            zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
            base = node.operator.value(*zeros).flatten()
            sizes = [zero.numel() for zero in zeros]
            units = torch.eye(sum(sizes), dtype=torch.float64).split(sizes, dim=1)
            units = [unit.view(-1, *shape) for unit, shape in zip(units, shapes, strict=True)]
            matrix = (node.operator.value(*units).flatten(1) - base).T.numpy()
            for row, coefficients, constant in zip(rows, matrix, base.tolist(), strict=True):
                used = coefficients.nonzero()[0]
                program.equal([row, *columns[used]], [1.0, *-coefficients[used]], constant)
        elif isinstance(node.operator, LeakyReLU):
            for row, column in zip(rows, columns, strict=True):
                program.leaky_relu(row, column, node.operator.slope)
        else:
            assert isinstance(node.operator, MaxPooled)
            places = torch.arange(len(columns), dtype=torch.float64).view(1, *shapes[0])
            windows = node.operator.windows(places).flatten(0, -2)
            for row, window in zip(rows, windows.tolist(), strict=True):
                program.maximum(row, [columns[int(place)] for place in window if place >= 0])
    logits = np.arange(starts[graph.output], starts[graph.output + 1])
    return torch.tensor(
        [program.least({logits[y]: 1.0, other: -1.0}) if other != logits[y] else 0.0 for other in logits]
    )


class _Program:
    """Variables with bounds, rows `Σ coefficient · variable` between two numbers, and binary variables."""

    def __init__(self, low, high):
        self.low, self.high, self.binary = low, high, [0] * len(low)
        self.rows, self.least_values, self.most_values = [], [], []

    def add(self, columns, coefficients, least, most=np.inf):
        self.rows.append((columns, coefficients))
        self.least_values.append(least)
        self.most_values.append(most)

    def equal(self, columns, coefficients, value):
        self.add(columns, coefficients, value, value)

    def choice(self):
        self.low.append(0), self.high.append(1), self.binary.append(1)
        return len(self.low) - 1

    def leaky_relu(self, out, before, slope):
        low, high = self.low[before], self.high[before]
        if low >= 0 or high <= 0:
            return self.equal([out, before], [1.0, -(1.0 if low >= 0 else slope)], 0.0)
        on = self.choice()
        self.add([out, before], [1.0, -1.0], 0.0)
        self.add([out, before], [1.0, -slope], 0.0)
        self.add([out, before, on], [-1.0, 1.0, (1 - slope) * low], (1 - slope) * low)
        return self.add([out, before, on], [-1.0, slope, (1 - slope) * high], 0.0)

    def maximum(self, out, before):
        chosen = [self.choice() for _ in before]
        self.equal(chosen, [1.0] * len(chosen), 1.0)
        for column, on in zip(before, chosen, strict=True):
            room = max(self.high[each] for each in before) - self.low[column]
            self.add([out, column], [1.0, -1.0], 0.0)
            self.add([out, column, on], [-1.0, 1.0, -room], -room)

    def least(self, objective):
        matrix = lil_matrix((len(self.rows), len(self.low)))
        for number, (columns, coefficients) in enumerate(self.rows):
            for column, coefficient in zip(columns, coefficients, strict=True):
                matrix[number, column] += coefficient
        costs = np.zeros(len(self.low))
        for column, coefficient in objective.items():
            costs[column] += coefficient
        found = milp(
            costs, integrality=self.binary, bounds=Bounds(self.low, self.high),
            constraints=LinearConstraint(matrix.tocsr(), self.least_values, self.most_values),
            options={"mip_rel_gap": 1e-9},
        )  # fmt: skip
        assert found.success, found.message
        return found.fun
