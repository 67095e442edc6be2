"""Everything is killed at every step, on a whole lab, and what comes of it is compared with the world."""
