"""Putting tensors and layers where their names say."""

from torch import Tensor, nn


def place(root: nn.Module, name: str, value: Tensor | nn.Module) -> None:
    """Puts a tensor or layer into `root` under a name with dots, in modules that are made where there are none."""
    *parents, leaf = name.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if isinstance(value, nn.Module):
        root.add_module(leaf, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=False))
    else:
        root.register_buffer(leaf, value.detach())
