"""The names of the five programs that memwarden replaces, one module for each of theirs.

Take these modules to move a program over by changing its import lines; for new code the native package is
the better choice. Everything here is thin: looking, judging and recording are the native package's, and only
names, shapes of results and wordings are made here.

Units: these names say ``mb`` and print "MB" as the programs they come from did, and mean 2**20 bytes. The
native package counts in bytes. Percentages are shares of the limit that is nearest to being passed: the
container's, an outer group's or the machine's; results say which under ``limit_source``.
"""
