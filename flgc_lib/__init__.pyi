# What type checkers and editors see in place of __init__.py, which loads these names only when they are asked for.
from flgc_lib.cost import count as count
from flgc_lib.frozen import freeze as freeze
from flgc_lib.frozen import load as load
from flgc_lib.frozen import save as save
from flgc_lib.layers import FLGConv2d as FLGConv2d
from flgc_lib.resnet import embed as embed
from flgc_lib.resnet import resnet50 as resnet50

__version__: str
