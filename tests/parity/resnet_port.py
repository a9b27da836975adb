"""A ResNet in PyTorch up to layer4, written from the paper, to compare with.

Only the names of modules follow torchvision, so that a `state_dict` of either loads into the other
(but for `fc`). A bottleneck has its stride in the 3 × 3 convolution.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import relu


class Basic(nn.Module):
    """Two 3 × 3 convolutions."""

    widening = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1 × 1 down, 3 × 3, 1 × 1 up to four times the width."""

    widening = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _projection(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """An empty sequence, the identity, where shapes already agree."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


_DEPTHS: dict[int, tuple[type[Basic] | type[Bottleneck], list[int]]] = {
    18: (Basic, [2, 2, 2, 2]),
    34: (Basic, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}


class ResNetPort(nn.Module):
    """Pictures `[batch, 3, height, width]` to layer4 `[batch, channels, height/32, width/32]`."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        kind, counts = _DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for index, count in enumerate(counts):
            width = 64 * 2**index
            blocks = []
            for block in range(count):
                blocks.append(kind(inputs, width, 2 if index > 0 and block == 0 else 1))
                inputs = width * kind.widening
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = relu(self.bn1(self.conv1(images)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def random_resnet(depth: int, seed: int) -> ResNetPort:
    """In evaluation mode, with batch norms that change what passes through them."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = ResNetPort(depth)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0.0, 0.2, generator=generator)
            module.running_mean.normal_(0.0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.eval()
