"""Many runs at once: plans, tasks, attempts at them, executors that start them, and the runs' status."""
