"""Where: zones, agents, hosts and storage pools; their pings and epochs as rows."""
