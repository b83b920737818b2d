import kprune.checkpoint  # TEMPORARY: until kprune has no circle
