"""The functions behind the doors (train.py, evaluate.py, ...) and behind the command `ssd300`."""
