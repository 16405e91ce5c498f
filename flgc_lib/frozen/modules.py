"""The conservative way: a network that cannot be captured keeps its modules, and only its convolutions are replaced.

A frozen layer answers for `kernel_size`, `groups` and what else a convolution is asked for. Norms stay what they are:
whether one always follows its convolution, only the network's code knows.
"""

from torch import nn

from flgc_lib.frozen.convert import from_convolution, is_convertible
from flgc_lib.frozen.fuse import Fused
from flgc_lib.layers import FLGConv2d


def replace_convolutions(model: nn.Module) -> tuple[nn.Module, Fused]:
    """Freezes the convolutions of a network that keeps its modules.

    Args:
        model: in eval mode; it is used up.

    Returns:
        The network, and what was done.
    """
    replaced = {}
    left_alone = []
    for name, module in model.named_modules():
        if is_convertible(module) and not _has_hooks(module):
            replaced[module] = from_convolution(module)
        elif isinstance(module, nn.modules.conv._ConvNd | FLGConv2d):
            left_alone.append(f"{name or 'the network'}: {_why(module)}")
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child in replaced:
                module._modules[name] = replaced[child]
    return replaced.get(model, model), Fused(len(replaced), 0, 0, 0, tuple(left_alone))


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _why(module: nn.Module) -> str:
    if _has_hooks(module):
        return "it has a hook"
    if isinstance(module, FLGConv2d) or "forward" in vars(module):
        return f"{type(module).__name__} has a forward of its own"
    return f"{type(module).__name__} is not an ordinary convolution of two dimensions with zeros around the image"
