"""What ships beside a package: a Swift wrapper, and tools that measure it on an Apple device."""
