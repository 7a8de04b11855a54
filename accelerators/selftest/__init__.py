"""Does a device compute what the CPU computes, alone and with others? Any Lightning project's question; knows no model.

checks.py   what a check is and what it may say      running.py  runs checks in a process that may die or hang
shadow.py   every operator call beside the CPU's     layers.py   a network layer by layer beside the CPU's
device.py, several.py  the checks for one device and for several
tiny.py     their model                              bundle.py   the table, and the zip that a user can send
"""
