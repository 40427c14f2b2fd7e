"""What a search can change of a network and its engine, one axis a file."""
