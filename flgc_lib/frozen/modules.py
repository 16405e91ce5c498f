"""The conservative way: a network that cannot be captured keeps its modules, and only its convolutions are replaced.

A frozen layer answers for `kernel_size`, `groups` and what else a convolution is asked for. A norm is folded where it
certainly follows its convolution: as its neighbour in an `nn.Sequential`.
"""

from itertools import pairwise

from torch import nn

from flgc_lib.frozen.convert import from_convolution, is_convertible
from flgc_lib.frozen.fuse import Fused
from flgc_lib.layers import FLGConv2d


def replace_convolutions(model: nn.Module, *, fold: bool) -> tuple[nn.Module, Fused]:
    """Freezes the convolutions of a network that keeps its modules.

    Args:
        model: in eval mode; it is used up.
        fold: whether to fold norms.

    Returns:
        The network, and what was done.
    """
    shared = {id(m) for m in model.modules() if sum(m is other for other in _with_repeats(model)) > 1}
    norms = 0
    if fold:
        for module in list(model.modules()):
            if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
                norms += _fold_neighbours(module, shared)
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
    convolutions = len(replaced) + norms
    return replaced.get(model, model), Fused(convolutions, norms, 0, 0, tuple(left_alone))


def _with_repeats(model: nn.Module) -> list[nn.Module]:
    return [module for _, module in model.named_modules(remove_duplicate=False)]


def _fold_neighbours(layers: nn.Sequential, shared: set[int]) -> int:
    folded = 0
    for (name, conv), (norm_name, norm) in pairwise(list(layers._modules.items())):
        if conv is None or type(norm) is not nn.BatchNorm2d or norm.running_mean is None or not is_convertible(conv):
            continue
        if not shared & {id(conv), id(norm)} and not _has_hooks(conv) and not _has_hooks(norm):
            layers._modules[name] = from_convolution(conv, norm)
            layers._modules[norm_name] = nn.Identity()
            folded += 1
    return folded


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _why(module: nn.Module) -> str:
    if _has_hooks(module):
        return "it has a hook"
    if isinstance(module, FLGConv2d):
        return f"{type(module).__name__} has a forward of its own"
    return f"{type(module).__name__} is not an ordinary convolution of two dimensions with zeros around the image"
