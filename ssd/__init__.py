"""The SSD300 detector in plain PyTorch: geometry, model, loss and post-processing. Knows no Lightning and no files."""
