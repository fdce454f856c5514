"""Schedules: functions from the step, 0 first, to a value; one file for each kind."""
