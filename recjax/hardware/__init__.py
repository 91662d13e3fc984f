"""What device is here, and what it can do."""
