"""Load generation: queries that arrive on a schedule, from a process of their own, and the loop that answers them."""
