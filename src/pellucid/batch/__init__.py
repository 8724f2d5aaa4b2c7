"""Many pictures into one folder: a journal of what was done, and the run that reads, restores and writes.

`journal` keeps what was done with which weights and settings, and who is at work; `plan` says what is left to
do; `run` does it, while other processes read the next picture and write the last.
"""
