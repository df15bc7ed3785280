"""Networks of other code: read from its files, and put into the layout of s5c.

    container/NAME.py    a way to store arrays: bytes on the disk become arrays by name, and nothing in them is run
    layout/NAME.py       a way to name them: arrays by name, and options, become weights and a configuration of s5c

Both are kinds that are found by their file names (`s5c.lookup`): a new format is one file.
"""
