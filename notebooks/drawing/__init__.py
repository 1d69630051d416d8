"""What the notebooks draw with."""
