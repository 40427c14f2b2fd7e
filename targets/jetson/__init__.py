"""Target Jetson: neutral graph to the ONNX of one TensorRT version, with a plan to build it on the device."""
