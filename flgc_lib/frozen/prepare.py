"""A copy of a trained network to work on: in eval mode, not compiled, its weights plain tensors."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def inference_copy(model: nn.Module) -> nn.Module:
    """A copy of the network in eval mode, without gradients; a compiled network's is that of the network inside."""
    memo: dict[int, object] = {}
    for module in model.modules():
        # What a hook computed in the last forward pass is attached to a graph, which copy.deepcopy refuses.
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    for module in reversed(list(model.modules())):
        inside = getattr(module, "_orig_mod", None)
        if type(module).__name__ == "OptimizedModule" and isinstance(inside, nn.Module):
            memo[id(module)] = copy.deepcopy(inside, memo)
    return copy.deepcopy(model, memo).eval().requires_grad_(False)


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
