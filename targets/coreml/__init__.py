"""Target Core ML: neutral graph to .mlpackage, and the saved package read back and checked anywhere."""
