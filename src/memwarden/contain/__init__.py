"""Commands under a memory limit: started, limited from outside, stopped with the whole tree, and reported on."""
