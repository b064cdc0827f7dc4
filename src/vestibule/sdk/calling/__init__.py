"""The calling side of protocols that have a serving side in this package, too."""
