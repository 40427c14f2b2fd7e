"""What kind of op each op of ONNX is: one table for every pass, target and frontend.

The source is the operators' reference of ONNX (onnx/docs/Operators.md, opsets 23 and 24). Each op is in
exactly one of the kinds in `KINDS`, or in `UNCLASSED` with the reason. `ZERO_PRESERVING` and
`MONOTONE` are properties that ops of any kind may have.
"""

from __future__ import annotations


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


UNARY = _ops("""
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor
    Gelu HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink
    Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""")
"""Each element of the first input by itself, in the same shape; other inputs are scalars or give a type."""

BROADCASTING = _ops("""
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max
    Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor
""")
"""Elementwise over operands that are broadcast against each other."""

MOVEMENT = _ops("""
    CenterCropPad Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad
    Reshape ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze
""")
"""Elements of the first input (of all inputs for Concat) in other places, beside a constant fill."""

NORMALIZATION = _ops("""
    BatchNormalization GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax
    LpNormalization MeanVarianceNormalization RMSNormalization Softmax
""")
"""Elements in their places, scaled by statistics of their neighbours along some axes."""

CONTRACTION = _ops("""
    Attention Conv ConvInteger ConvTranspose DeformConv Einsum GRU Gemm LSTM MatMul MatMulInteger QLinearConv
    QLinearMatMul RNN
""")
"""Sums of products of two operands: what costs multiply-accumulates."""

REDUCTION = _ops("""
    ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
""")
"""One number for all elements along some axes."""

POOLING = _ops("AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool RoiAlign")
"""One number for all elements of a window of the spatial axes."""

CREATION = _ops("""
    BlackmanWindow Constant ConstantOfShape EyeLike HammingWindow HannWindow MelWeightMatrix OneHot Range
    Shape Size
""")
"""Values made from sizes, counts and places, not from the data of a floating-point input."""

DRAWS = _ops("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike")
"""Another result each time."""

QUANTIZATION = _ops("DequantizeLinear DynamicQuantizeLinear QuantizeLinear")
"""Says how a value is stored."""

CONTROL = _ops("If Loop Scan SequenceMap")
"""Runs a body of its own."""

CONTAINER = _ops("""
    ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct
    SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence
""")
"""Packs tensors into sequences and optionals, or unpacks them."""

TEXT = _ops("RegexFullMatch StringConcat StringNormalizer StringSplit")
"""Works on strings."""

KINDS: dict[str, frozenset[str]] = {
    "unary": UNARY,
    "broadcasting": BROADCASTING,
    "movement": MOVEMENT,
    "normalization": NORMALIZATION,
    "contraction": CONTRACTION,
    "reduction": REDUCTION,
    "pooling": POOLING,
    "creation": CREATION,
    "draws": DRAWS,
    "quantization": QUANTIZATION,
    "control": CONTROL,
    "container": CONTAINER,
    "text": TEXT,
}
"""The kinds by name; no op is of two."""

UNCLASSED: dict[str, str] = {
    "AffineGrid": "makes a grid of places from a matrix for each sample",
    "Col2Im": "adds overlapping blocks up",
    "CumSum": "sums along an axis and keeps every partial sum",
    "DFT": "sums along an axis with weights of its own, into an axis of as many numbers",
    "Det": "a polynomial of a whole matrix",
    "Dropout": "draws while training and is Identity otherwise, as an input decides",
    "GridSample": "mixes elements at places that are computed",
    "ImageDecoder": "reads a file format",
    "MaxUnpool": "writes elements at places that are computed",
    "NegativeLogLikelihoodLoss": "is for training",
    "NonMaxSuppression": "makes places from an order of scores",
    "NonZero": "makes places, as many as the data decide",
    "Resize": "mixes neighbours along the axes that change, or moves them",
    "RotaryEmbedding": "rotates pairs along the last axis by the angles of a row's position",
    "STFT": "sums over windows with weights of its own",
    "ScatterElements": "writes elements at places that are computed, or combines them there",
    "ScatterND": "writes elements at places that are computed, or combines them there",
    "SoftmaxCrossEntropyLoss": "is for training",
    "TensorScatter": "writes rows into a cache at places that are computed",
    "TfIdfVectorizer": "counts n-grams",
    "TopK": "moves elements by their order, and says from where",
    "Unique": "moves elements by their order, as many as the data decide",
}
"""Ops of no kind, with what they do instead."""

ZERO_PRESERVING = _ops("""
    Abs Asin Asinh Atan Ceil Celu Elu Erf Floor Gelu HardSwish LeakyRelu Mish Neg Relu Round Selu Shrink Sign
    Sin Sinh Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""")
"""Unary ops that give 0 for 0 whatever their attributes are (`alpha`, `gamma`, `lambd`, …)."""

MONOTONE = _ops("""
    Asinh Atan Ceil Clip Erf Exp Floor Relu Round Sigmoid Sign Sinh Softplus Softsign Tanh
""")
"""Unary ops that are defined everywhere and never fall where their input rises, whatever their attributes."""


def kind(op_type: str) -> str | None:
    """The name of the kind that an op of the ONNX domain is of; None where it is of none or not known."""
    return next((name for name, ops in KINDS.items() if op_type in ops), None)
