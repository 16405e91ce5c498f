"""Learned group convolution: from ResNet to Fully Learnable Group Convolution and the duplication rule.

What is listed here is loaded when it is first asked for: `import flgc_lib` alone loads neither torch nor anything else
that has to be installed.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
__all__ = ["FLGConv2d", "__version__", "count", "embed", "freeze", "load", "resnet50", "save"]

_HOMES = {
    "FLGConv2d": "layers",
    "resnet50": "resnet",
    "embed": "resnet",
    "count": "cost",
    "freeze": "frozen",
    "load": "frozen",
    "save": "frozen",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401, functions and a class
    if name not in _HOMES:
        raise AttributeError(f"module 'flgc_lib' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"flgc_lib.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
