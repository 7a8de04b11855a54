"""Of a MagicMind kit, beside what magicmind_kit.py computes: copied as it is, without imports of ours."""
