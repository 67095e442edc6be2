"""Real hypervisors, a mirror, a broker and a database on one machine: what cloudctl's tests and its demo run on."""
