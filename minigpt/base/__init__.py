"""The ground floor: errors, the one place that writes to disk, randomness, flags."""
