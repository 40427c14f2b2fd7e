"""Target RTX: portable TensorRT-RTX engines, built without a GPU."""
