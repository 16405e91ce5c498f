"""Residual networks whose convolutions can be dense, grouped or learned, and `embed` for any other network.

Parameter names and the dense ResNet-50 are torchvision's: its state dict loads unchanged.

Source: He et al. 2016; Motohashi and Yamauchi, section 4 (the network of the experiment).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from flgc_lib.blocks import BasicBlock, Bottleneck
from flgc_lib.copying import copy_network
from flgc_lib.grouping import check_choice
from flgc_lib.layers import FLGConv2d, Score
from flgc_lib.methods import ConvLayer, Method, dense_conv, method_layer

Block = Literal["bottleneck", "basic"]
Stem = Literal["paper", "cifar", "imagenet"]
Where = Literal["block", "3x3", "1x1", "all"]
_BLOCKS: dict[Block, type[BasicBlock] | type[Bottleneck]] = {"bottleneck": Bottleneck, "basic": BasicBlock}


class ResNet(nn.Module):
    """A residual network with torchvision's parameter names. Images (B, 3, H, W) -> logits (B, num_classes).

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: how many blocks each stage has; every stage but the first halves the resolution.
        num_classes: outputs of the classifier.
        stem: "paper" (3×3 stride 2, then max pool), "cifar" (3×3 stride 1, no pool) or "imagenet" (7×7, max pool).
        base_channels: width of the stem and of the first stage's blocks; it doubles from stage to stage.
        conv_layer: makes the convolutions of the blocks.
        shortcut_layer: makes the 1×1 projections of the shortcuts.

    Raises:
        ValueError: for an unknown stem.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        num_classes: int = 10,
        stem: Stem = "paper",
        base_channels: int = 64,
        conv_layer: ConvLayer = dense_conv,
        shortcut_layer: ConvLayer = dense_conv,
    ) -> None:
        super().__init__()
        check_choice("stem", stem, Stem)
        kernel, stride = {"paper": (3, 2), "cifar": (3, 1), "imagenet": (7, 2)}[stem]
        self.conv1 = dense_conv(3, base_channels, kernel, stride, kernel // 2)
        self.bn1 = nn.BatchNorm2d(base_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        channels = base_channels
        for stage, depth in enumerate(depths):
            width = base_channels * 2**stage
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                out_channels = width * block.expansion
                downsample = None
                if stride != 1 or channels != out_channels:
                    downsample = nn.Sequential(
                        shortcut_layer(channels, out_channels, 1, stride, 0), nn.BatchNorm2d(out_channels)
                    )
                blocks.append(block(channels, width, stride, conv_layer, downsample))
                channels = out_channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """He's initialisation by fan-out, as torchvision does, with the fan-out that a grouped filter really has."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | FLGConv2d):
                kernel_area = module.kernel_size[0] * module.kernel_size[1]
                fan_out = module.out_channels / module.groups * kernel_area
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, stages, global average pooling (section 2-1-2), classifier."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet(
    depths: Sequence[int],
    num_classes: int = 10,
    *,
    block: Block = "bottleneck",
    stem: Stem = "paper",
    method: Method = "dense",
    groups: int = 1,
    where: Where = "block",
    depthwise: bool = False,
    width: float = 1.0,
    top_k: int = 3,
    score: Score = "logit",
    share: float = 1.0,
) -> ResNet:
    """A ResNet of any depth and width, with the convolutions of a method of the experiment.

    Args:
        depths: blocks a stage; (3, 4, 6, 3) is ResNet-50.
        num_classes: outputs of the classifier.
        block: "bottleneck", or "basic", of two 3×3 convolutions.
        stem: see `ResNet`.
        method: see `method_layer`.
        groups: G, ignored by "dense".
        where: which convolutions the method replaces: "block" (all of a block), "3x3", "1x1" (both of a bottleneck),
            "all" (block and projection shortcuts). Stem and classifier stay dense.
        depthwise: makes the 3×3 convolutions depthwise, whatever the method.
        width: multiplies all channel counts; 1.0 is 64 channels in the stem.
        top_k: k of the duplication rule.
        score: what the rule compares.
        share: channels of a group over C/G, see `method_layer`.

    Raises:
        ValueError: for an unknown block, stem, method or where, for 1×1 convolutions of basic blocks, which have none,
            for a width that is not positive, and groups or a share that do not fit the channels.
    """
    check_choice("block", block, Block)
    check_choice("where", where, Where)
    if (block, where) == ("basic", "1x1"):
        raise ValueError("block='basic' has no 1×1 convolutions that where='1x1' could replace: give block, 3x3 or all")
    if width <= 0:
        raise ValueError(f"width={width} must be positive; 1.0 is 64 channels in the stem")
    replacement = method_layer(method, groups, top_k=top_k, score=score, share=share)

    def conv_layer(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
        if depthwise and kernel_size == 3:
            return nn.Conv2d(in_channels, out_channels, 3, stride, padding, groups=in_channels, bias=False)
        chosen = where in ("block", "all", f"{kernel_size}x{kernel_size}")
        make = replacement if chosen else dense_conv
        return make(in_channels, out_channels, kernel_size, stride, padding)

    return ResNet(
        _BLOCKS[block],
        depths,
        num_classes=num_classes,
        stem=stem,
        base_channels=max(1, round(64 * width)),
        conv_layer=conv_layer,
        shortcut_layer=replacement if where == "all" else dense_conv,
    )


def resnet50(
    num_classes: int = 10,
    *,
    stem: Stem = "paper",
    method: Method = "dense",
    groups: int = 1,
    where: Where = "block",
    depthwise: bool = False,
    width: float = 1.0,
    top_k: int = 3,
    score: Score = "logit",
    share: float = 1.0,
) -> ResNet:
    """ResNet-50, the network of the paper's section 4: `resnet` with 3-4-6-3 blocks; same arguments.

    Example:
        >>> network = resnet50(method="flgc-dup", groups=8, width=1 / 4)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> network.layer1[0].conv2
        FLGConv2d(16, 16, kernel_size=(3, 3), groups=8, stride=(1, 1), padding=(1, 1), bias=False, duplicate_top_k=3)
    """
    return resnet(
        (3, 4, 6, 3),
        num_classes,
        stem=stem,
        method=method,
        groups=groups,
        where=where,
        depthwise=depthwise,
        width=width,
        top_k=top_k,
        score=score,
        share=share,
    )


def embed(
    model: nn.Module,
    groups: int,
    *,
    where: Callable[[str, nn.Conv2d], bool] | None = None,
    duplicate_top_k: int | None = None,
    score: Score = "logit",
) -> nn.Module:
    """Replaces ordinary convolutions of any model, torchvision's or timm's, by `FLGConv2d`.

    Weights are taken over, multiplied by √G because a filter now sums over C/G channels instead of C; with one group
    the model computes what it did before. Hooks, mode and frozen parameters stay what they were, and what was shared
    (a layer under two names, a weight of two layers) stays shared. S and T are drawn from torch's generator.

    Args:
        model: any module; it is copied, not changed.
        groups: G.
        where: predicate on (qualified name, convolution) that says what to replace. Without it, all ungrouped
            convolutions with at least `groups` channels and filters are, except the first, which sees the image.
        duplicate_top_k: k of the duplication rule, or None.
        score: what the rule compares.

    Returns:
        The copy, on the model's device.

    Raises:
        ValueError: if `where` picks a convolution that FLGC cannot replace, nothing was replaced, or the model holds
            what cannot be copied, such as a lock.

    Example:
        >>> embed(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1)), groups=2)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
          (2): FLGConv2d(8, 6, kernel_size=(1, 1), groups=2, stride=(1, 1), padding=(0, 0), bias=True)
        )
    """
    convolutions = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    twins: dict[nn.Conv2d, FLGConv2d] = {}
    weights: dict[Tensor, FLGConv2d] = {}
    for position, (name, conv) in enumerate(convolutions):
        ordinary = _is_ordinary(conv)
        if where is None:
            chosen = ordinary and position > 0 and groups <= min(conv.in_channels, conv.out_channels)
        else:
            chosen = where(name, conv)
        if not chosen:
            continue
        if not ordinary:
            raise ValueError(
                f"{name} is {conv}; only an nn.Conv2d with groups=1 and numeric zero padding can learn its groups: "
                "let `where` leave it out"
            )
        layer = _with_learned_groups(conv, groups, duplicate_top_k, score)
        first = weights.setdefault(conv.weight, layer)
        layer.weight, layer.input_logits, layer.filter_logits = first.weight, first.input_logits, first.filter_logits
        twins[conv] = layer
    for module in model.modules():
        if module not in twins and any(value in weights for value in module._parameters.values()):
            raise ValueError(f"{module} shares the weight of a convolution that `where` picks: pick both or neither")
    if not twins:
        raise ValueError(
            f"no convolution of {type(model).__name__} was replaced: `where` or groups={groups} excludes all"
        )
    # Whatever refers to a convolution or its weight, a list that no module knows of too, refers to the twin's.
    copies: dict[int, Any] = {id(conv): layer for conv, layer in twins.items()}
    copies |= {id(weight): layer.weight for weight, layer in weights.items()}
    network = copy_network(model, copies)
    for conv, layer in twins.items():
        layer.bias = cast(nn.Parameter | None, copy.deepcopy(conv.bias, copies))  # whoever shares it goes on sharing it
        hooks = {name: value for name, value in vars(conv).items() if "_hook" in name}
        vars(layer).update(copy.deepcopy(hooks, copies))
    return network


def _is_ordinary(conv: nn.Conv2d) -> bool:
    """Whether the convolution does nothing that FLGC's does not; weight norm, for one, computes its weight anew."""
    plain = type(conv) is nn.Conv2d and conv.groups == 1 and isinstance(conv.weight, nn.Parameter)
    return plain and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


@torch.no_grad()
def _with_learned_groups(conv: nn.Conv2d, groups: int, duplicate_top_k: int | None, score: Score) -> FLGConv2d:
    """A convolution's twin: the same weights, scaled for the smaller fan-in."""
    assert not isinstance(conv.padding, str)
    layer = FLGConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        groups=groups,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        bias=conv.bias is not None,
        duplicate_top_k=duplicate_top_k,
        score=score,
    ).to(conv.weight)
    layer.weight.copy_(conv.weight * groups**0.5)
    layer.requires_grad_(conv.weight.requires_grad)
    return layer.train(conv.training)
