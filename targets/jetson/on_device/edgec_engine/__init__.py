"""Builds, checks, runs and measures a bundle's TensorRT engine on the device it is for.

The folder is copied into every Jetson bundle. It needs Python 3.8, numpy and the TensorRT that the
device's JetPack carries, nothing else, and imports nothing of edgec.
"""
