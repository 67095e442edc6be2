"""Templates, where they are placed, and how they get there."""
