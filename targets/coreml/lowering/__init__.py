"""Lowering from the neutral ONNX dialect to MIL: one small function an op, looked up in one table."""
