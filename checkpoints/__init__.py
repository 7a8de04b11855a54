"""Files of weights: read safely, written durably, found, and translated from and to the published recipe's format."""
