"""The checker: a saved .mlpackage read back from disk and interpreted in numpy.

Nothing here imports the lowering or coremltools' MIL: what it knows of the format comes from the
protobuf definitions and from Apple's op reference, so that a mistake of the converter is not repeated.
"""
