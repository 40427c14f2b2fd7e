"""Engines and peers side by side: one model, and the suite."""
