"""Transposes: how a pull goes back through each operation that autograd recorded. TRANSPOSES is the table.

A transpose gets the node, the pull of its output, the number of that output and the shape of what it takes, and gives
the pull of each input by number. What is not in the table goes back through the node's own derivative, on whole tensors
(`through_node`): the same numbers, only slower. So the table is a matter of speed, never of coverage.
"""

from __future__ import annotations

from circuits.wiring.transposes.arithmetic import add, div, last, mean, mul, neg, rsub, same, sub, total
from circuits.wiring.transposes.convolutions import adaptive_pool, average_pool, convolution
from circuits.wiring.transposes.nodes import through_node
from circuits.wiring.transposes.products import addmm, linear_layer, mm
from circuits.wiring.transposes.shapes import (
    cat,
    mirrored_pad,
    pad,
    permute,
    reshape,
    roll,
    select,
    split,
    split_with_sizes,
    stack,
    strided_slice,
    transpose,
    turned,
    unbind,
)
from circuits.wiring.transposes.steps import ForeignError, Step, Transpose, careful

__all__ = ["TRANSPOSES", "ForeignError", "Step", "careful", "linear_layer", "through_node"]

# By the name of the node that autograd records, which is what torch prints as `grad_fn`.
TRANSPOSES: dict[str, Transpose] = {
    **dict.fromkeys(
        ("AliasBackward0", "CloneBackward0", "ToCopyBackward0", "ExpandBackward0", "ViewAsBackward0"), same
    ),
    **dict.fromkeys(("JoinedBackward", "torch::autograd::CopyBackwards"), last),
    **dict.fromkeys(
        ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "UnsqueezeBackward0", "SqueezeBackward0"),
        reshape,
    ),
    **dict.fromkeys(("SqueezeBackward1", "SqueezeBackward2"), reshape),
    **dict.fromkeys(("SumBackward0", "SumBackward1"), total),
    **dict.fromkeys(("MeanBackward0", "MeanBackward1"), mean),
    **dict.fromkeys(("RsubBackward0", "RsubBackward1"), rsub),
    **dict.fromkeys(("ReflectionPad2DBackward0", "ReplicationPad2DBackward0"), mirrored_pad),
    "AddBackward0": add,
    "SubBackward0": sub,
    "NegBackward0": neg,
    "MulBackward0": mul,
    "DivBackward0": div,
    "CatBackward0": cat,
    "StackBackward0": stack,
    "PermuteBackward0": permute,
    "TransposeBackward0": transpose,
    "TBackward0": turned,
    "SelectBackward0": select,
    "UnbindBackward0": unbind,
    "SliceBackward0": strided_slice,
    "SplitBackward0": split,
    "SplitWithSizesBackward0": split_with_sizes,
    "ConstantPadNdBackward0": pad,
    "RollBackward0": roll,
    "ConvolutionBackward0": convolution,
    "AvgPool2DBackward0": average_pool,
    "AdaptiveAvgPool2DBackward0": adaptive_pool,
    "AddmmBackward0": addmm,
    "MmBackward0": mm,
    "BmmBackward0": mm,
}
