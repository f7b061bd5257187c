"""A command under a ceiling: started, held to a limit from outside, ended with its whole tree, and explained."""
