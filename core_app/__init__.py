"""What every app needs: errors, guarded transitions, events, settings rows, problem details, secrets at rest."""
