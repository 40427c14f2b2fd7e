"""An engine against its source: scores, gates, the layer to blame, what lossy steps may cost."""
