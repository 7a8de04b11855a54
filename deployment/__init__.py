"""A trained detector outside PyTorch: one file per engine, each exports to it and runs it, behind one small interface.

engine.py opens any exported file; graph.py is what is exported; proof.py compares a file with PyTorch.
"""
