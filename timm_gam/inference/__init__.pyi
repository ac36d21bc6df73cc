from timm_gam.inference.compilation import compiler_errors as compiler_errors
from timm_gam.inference.large_convolutions import map_sizes as map_sizes
from timm_gam.inference.optimization import OptimizedNetwork as OptimizedNetwork
from timm_gam.inference.optimization import fold_batch_norms as fold_batch_norms
from timm_gam.inference.optimization import optimize as optimize
from timm_gam.inference.tap_convolution import TapConv2d as TapConv2d
