"""A bundle as something that others install: a Docker context, or wheels."""
