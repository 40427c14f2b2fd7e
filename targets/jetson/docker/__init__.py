"""What a Docker image for a Jetson is made of: templates, and base images as data."""
