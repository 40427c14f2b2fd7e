"""Precision written into the graph: what computes in fp16 or int8, and what stays in fp32."""
