"""What a run adds to Lightning: callbacks, exact resume, the schedule, where weights come from, loggers, records."""
