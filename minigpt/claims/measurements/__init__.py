"""What is measured on trained cells, by subject; `measuring.py` knows each by its name."""
