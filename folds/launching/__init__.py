"""Many runs at once: plans, tasks, attempts at them, executors that start them, and what the runs' folders tell."""
