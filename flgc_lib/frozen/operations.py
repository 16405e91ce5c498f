"""The operations that a saved network may consist of: computations on tensors and numbers, and nothing else.

A file names its operations, so that there must be a list: PyTorch has operations that open files, hand out memory as
they find it, or write to what they are given. None of these is here, and no Python function but arithmetic.
"""

import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from flgc_lib.frozen.pooling import max_pool2d

_ATEN = """
_softmax _log_softmax _to_copy _unsafe_view _adaptive_avg_pool2d _assert_async _assert_scalar
_upsample_bilinear2d_aa _native_batch_norm_legit_no_training
abs acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d add addbmm addcdiv addcmul addmm alias all alpha_dropout amax amin aminmax any
arange argmax argmin argsort asin atan atan2 avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bitwise_and
bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat ceil celu chunk clamp clamp_max
clamp_min clone concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d convolution copy cos cosh cosine_similarity cumprod cumsum cumulative_trapezoid detach diag
diag_embed diagonal diff div dot dropout einsum elu embedding eq erf erfc exp exp2 expand expand_as expm1 eye
feature_dropout flatten flip fliplr flipud floor floor_divide fmod frac full full_like gather ge gelu glu grid_sampler
grid_sampler_2d group_norm gru gt hardshrink hardsigmoid hardswish hardtanh im2col index index_select instance_norm
isfinite isinf isnan item layer_norm le leaky_relu lerp lift_fresh_copy linalg_norm linalg_vector_norm linear linspace
log log10 log1p log2 log_sigmoid log_softmax logaddexp logical_and logical_not logical_or logical_xor logsumexp lstm
lt masked_fill masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean median
meshgrid min minimum mish mm movedim moveaxis mul multinomial mv nan_to_num narrow native_group_norm
native_layer_norm ne neg new_full new_ones new_zeros nonzero norm normal numpy_T one_hot ones ones_like pad permute
pixel_shuffle pixel_unshuffle pow prelu prod rand rand_like randint randint_like randn randn_like randperm ravel
reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad1d
replication_pad2d reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_tanh roll rot90 round rrelu rsqrt
rsub scalar_tensor scaled_dot_product_attention scatter scatter_add select select_scatter selu sgn sigmoid sign silu
sin sinh slice slice_scatter softmax softplus softshrink sort special_expit split split_with_sizes sqrt square squeeze
stack std std_mean sub sum swapaxes swapdims sym_numel sym_size sym_stride t take take_along_dim tan tanh tensor_split
threshold tile to topk transpose tril tril_indices triu triu_indices true_divide trunc type_as unbind unflatten unfold
unsqueeze upsample_bicubic2d zero fill upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
upsample_trilinear3d var var_mean view view_as where zeros zeros_like
"""
_ARITHMETIC = """
math.ceil math.floor math.sqrt math.trunc operator.abs operator.add operator.and_ operator.eq operator.floordiv
operator.ge operator.getitem operator.gt operator.le operator.lt operator.mod operator.mul operator.ne operator.neg
operator.not_ operator.or_ operator.pos operator.sub operator.truediv torch.sym_float torch.sym_int torch.sym_ite
torch.sym_max torch.sym_min torch.sym_not torch.sym_sum
"""
_ALLOWED = frozenset(_ATEN.split())
_SCALES = {"scales", "scales_d", "scales_h", "scales_w", "scale_factors"}
LARGEST_SCALE = 1024.0
"""No map is enlarged, or made smaller, as many times."""
_MODES = {"interpolation_mode", "padding_mode"}


def batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float
) -> Any:
    """As aten._native_batch_norm_legit_no_training, which reads a number for each channel if there are fewer, too."""
    given = input, weight, bias, running_mean, running_var
    if isinstance(input, fx.Proxy):  # a graph that is copied by tracing it
        return input.tracer.create_proxy("call_function", batch_norm, (*given, momentum, eps), {})
    return (torch.ops.aten.batch_norm.default(*given, False, momentum, eps, False),)


_PYTHON: dict[str, Callable[..., Any]] = {
    "OrderedDict": OrderedDict,
    "aten.max_pool2d.default": max_pool2d,
    "aten._native_batch_norm_legit_no_training.default": batch_norm,
}
for _name in _ARITHMETIC.split():
    _home, _, _function = _name.partition(".")
    _PYTHON[_name] = getattr({"math": math, "operator": operator, "torch": torch}[_home], _function)
_NAMES = {function: name for name, function in _PYTHON.items()}


def operation_name(function: object) -> str:
    """What a file calls an operation.

    Raises:
        ValueError: if it may not be in a file.
    """
    if isinstance(function, torch._ops.OpOverload):
        name = f"{function.namespace}.{function._opname}.{function._overloadname}"
        if _is_allowed(function):
            return name
    else:
        name = str(getattr(function, "__name__", function))
        if function in _NAMES:
            return _NAMES[function]
    raise ValueError(f"the network uses {name}, which a file cannot hold: this network cannot be saved")


def operation(name: str) -> Callable[..., Any]:
    """The operation that a file means.

    Raises:
        ValueError: if it may not be in a file.
    """
    if name in _PYTHON:
        return _PYTHON[name]
    namespace, _, rest = name.partition(".")
    kind, _, overload = rest.partition(".")
    if namespace == "aten" and kind in _ALLOWED:
        packet = getattr(torch.ops.aten, kind)
        if overload in packet.overloads() and _is_allowed(getattr(packet, overload)):
            return getattr(packet, overload)
    raise ValueError(
        f"the file calls {name[:80]!r}, which is not one of the operations on tensors that a file may hold"
    )


def check_numbers(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Looks at the numbers of a file from which PyTorch computes what it reads, without a look at them.

    Raises:
        ValueError: if one is not what a network has.
    """
    if not isinstance(function, torch._ops.OpOverload):
        return
    names = [argument.name for argument in function._schema.arguments]
    for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
        scales = (value if isinstance(value, list | tuple) else [value]) if name in _SCALES else []
        if not all(map(_is_scale, scales)) or (name in _MODES and value not in (0, 1, 2)):
            raise ValueError(f"{name}={str(value)[:80]} is not what {function} of a network is given")


def _is_scale(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 1 / LARGEST_SCALE <= value <= LARGEST_SCALE)


def _is_allowed(function: torch._ops.OpOverload) -> bool:
    if function._overloadname == "data":  # a recurrent layer's of packed sequences: believes their lengths
        return False
    return function.namespace == "aten" and function._opname in _ALLOWED and not function._schema.is_mutable
