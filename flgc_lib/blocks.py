"""The two residual blocks, H(x) = F(x) + x, with torchvision's parameter names.

Source: He et al. 2016 (Fig. 1 and eq. 1 of the paper); Xie et al. 2017 (fixed groups inside a block, eq. 2).
"""

from torch import Tensor, nn

from flgc_lib.methods import ConvLayer


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, H(x) = F(x) + x (Fig. 1a, eq. 1). (B, C, H, W) -> (B, width, H', W')."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, conv_layer: ConvLayer, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = conv_layer(in_channels, width, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv_layer(width, width, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """H(x) = F(x) + x, then ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up and a shortcut (Fig. 1b). (B, C, H, W) -> (B, 4 · width, H', W').

    The stride sits on the 3×3 convolution, as in torchvision's ResNet-50.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, conv_layer: ConvLayer, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = conv_layer(in_channels, width, 1, 1, 0)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv_layer(width, width, 3, stride, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv_layer(width, width * self.expansion, 1, 1, 0)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """H(x) = F(x) + x, then ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + shortcut)
