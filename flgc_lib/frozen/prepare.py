"""A copy of a trained network to work on: in eval mode, not compiled, its weights plain tensors."""

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flgc_lib.copying import copy_network


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy of the network in eval mode, without gradients; a compiled network's is that of the network inside.

    Raises:
        ValueError: if an attribute cannot be copied, such as a lock or an open file.
    """
    memo: dict[int, object] = {}
    for module in reversed(list(model.modules())):
        inside = getattr(module, "_orig_mod", None)
        if type(module).__name__ == "OptimizedModule" and isinstance(inside, nn.Module):
            memo[id(module)] = copy_network(inside, memo)
    network = copy_network(model, memo)
    network.eval()  # what these return, a network may have changed
    network.requires_grad_(False)
    return network


@torch.no_grad()
def settle_weights(model: nn.Module) -> None:
    """Replaces weights that are computed in every call (weight and spectral norm, pruning) by their present values."""
    for module in list(model.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
        if parametrize.is_parametrized(module):
            _settle_parametrizations(module)
    model.requires_grad_(False)


def _settle_parametrizations(module: nn.Module) -> None:
    """As parametrize.remove_parametrizations, which would change the class that the trained network shares."""
    values = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value.detach().clone()))
