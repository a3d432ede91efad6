"""Networks made of every step that has bounds, in every form in which torch writes it."""

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = (4, 6, 6)  # of an image


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        shapes = {
            "kernel": (3, 4, 3, 2), "grouped": (4, 2, 3, 3), "square": (6, 6), "map": SHAPE, "channel": (4,),
            "wide": (144, 7), "row": (7,),
        }  # fmt: skip
        for seed, (name, shape) in enumerate(shapes.items()):
            self.register_buffer(name, torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        self.register_buffer("positive", self.channel.abs() + 0.1)
        self.register_buffer("order", torch.tensor([2, 0, 0, 3]))


def _added(c, x):
    kept = x.clone()
    x = x.add_(c.map)
    x -= torch.add(x, 2 * x, alpha=-0.3)
    x = 1 - torch.sub(x, 0.5, alpha=3) + c.channel.view(4, 1, 1)
    x = torch.rsub(torch.rsub(x, c.map[0], alpha=-1.5), 0.25)
    return x - kept + torch.ops.aten.add.Scalar(x, 0.5) - torch.ops.aten.sub.Scalar(kept, 0.1)


def _scaled(c, x):
    x = (x * c.map).mul_(-1.5) / c.channel.view(1, 4, 1, 1)
    x /= 0.7
    return -torch.ops.aten.div.Scalar(torch.ops.aten.mul.Scalar(x, -0.3), -0.9)


def _reshaped(c, x):
    x = x.reshape(len(x), 2, -1, 1).squeeze(3).unsqueeze(1).squeeze((1,))
    x = torch.ops.aten._unsafe_view(x, [len(x), 4, 36]).unflatten(2, (6, 6)).unsqueeze(4)
    return x.squeeze().permute(0, 2, 1, 3).transpose(-1, 2).contiguous().view(len(x), 6, 24).flatten(1)


def _chosen(c, x):
    x = torch.cat([x[:, ::2, 1:, -3:], x.index_select(1, c.order)[:, :2, :5, :3]], dim=-2)
    return torch.cat([x.select(2, -1), x[:, 1].repeat(1, 1, 2)[:, :2, :3], x[:, :, 3]], dim=1)


def _broadcast(c, x):
    return torch.cat([x[:, :1].expand(-1, 3, -1, 6), x.repeat(1, 2, 1, 1)], dim=1)


def _padded(c, x):
    x = F.pad(x, (1, 0, -1, 2))
    return torch.cat([x, torch.ops.aten.constant_pad_nd(x, [0, 0, 0, 0, 1, -1])], dim=2)


def _averaged(c, x):
    one = F.avg_pool2d(x, (3, 2), 2, (1, 0), ceil_mode=True, count_include_pad=False)
    two = F.avg_pool2d(x, 3, 1, 1, divisor_override=4)
    three = F.adaptive_avg_pool2d(x, (4, 5))
    parts = [one, two, three, x.mean(-1), x.mean((1, 2), keepdim=True)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _largest(c, x):
    one = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    two = F.max_pool2d(x, (2, 3), (1, 2), (1, 0))
    tied = F.max_pool2d(torch.cat([x, x], dim=3), 2)
    parts = [one, two, tied, x.amax((2, 3)), x.amax((-1, 2), keepdim=True), F.max_pool2d(x, 1)]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _clamped(c, x):
    x = torch.cat([x.clamp(-0.2, 0.9), x.clamp_min(0.1), x.clamp_max(0.6), x.clamp(max=0.3)], dim=1)
    x = torch.cat([F.hardtanh(x, -0.5, 0.4), F.relu6(4 * x)], dim=1)
    return torch.ops.aten.relu6_(torch.ops.aten.hardtanh_(3 * x, -1.0, 8.0))


def _curved(c, x):
    x = torch.cat([x.sigmoid(), (2 * x).sigmoid_(), x.tanh(), (-x).tanh_()], dim=1)
    return torch.cat([F.elu(x - 0.5, 1.3), torch.ops.aten.elu_(x - 1, 0.5, 1.1, 2.0)], dim=1)


def _kinked(c, x):
    x = torch.cat([x.relu(), (x - 0.4).relu_(), F.leaky_relu(x - 0.6, 0.2)], dim=1)
    return torch.ops.aten.leaky_relu_(x - x.relu() - 0.3, 0.5)


STEPS = {
    "convolution": lambda c, x: torch.cat([
        F.conv2d(x, c.kernel, c.row[:3], (2, 1), (1, 2), (2, 1)).flatten(1),
        F.conv2d(x, c.grouped, padding="same", groups=2, dilation=2).flatten(1),
        F.conv2d(x, c.kernel, padding="valid").flatten(1),
    ], dim=1),
    "linear": lambda c, x: F.linear(F.linear(x, c.square, c.row[:6]), c.square[:2]),
    "matrix": lambda c, x: x @ c.square.T,
    "matrices": lambda c, x: torch.mm(x.flatten(1), c.wide) - torch.addmm(c.row, x.flatten(1), -c.wide),
    "batch norm": lambda c, x: F.batch_norm(
        F.batch_norm(x, c.channel, c.positive, -c.channel, c.channel), c.channel, c.positive, None, None, eps=1e-3
    ),
    "added": _added, "scaled": _scaled, "reshaped": _reshaped, "chosen": _chosen, "broadcast": _broadcast,
    "padded": _padded, "averaged": _averaged, "largest": _largest, "clamped": _clamped, "curved": _curved,
    "kinked": _kinked,
}  # fmt: skip


class Stepped(nn.Module):
    """A step on the images, or behind a convolution and a ReLU; then two linear layers.

    `positive` weights of the first of these let no two changes cancel out: bounds are tight there.
    """

    def __init__(self, step, behind, seed=0, positive=False):
        super().__init__()
        self.step, self.behind, self.constants = step, behind, Constants()
        self.first, self.hidden, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.LazyLinear(6), nn.Linear(6, 3)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self(torch.zeros(2, *SHAPE))
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) * (2 / max(1, value[0].numel())) ** 0.5)
            if positive:
                self.hidden.weight.abs_()

    def forward(self, x):
        hidden = self.step(self.constants, self.first(x).relu() + 0 if self.behind else x.clone()).flatten(1)
        return self.last(self.hidden(hidden).relu())
