"""What is measured on trained cells, by subject; importing a file registers what it measures."""
