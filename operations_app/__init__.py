"""How: operations, their commands, dispatch, reports, reconciliation."""
