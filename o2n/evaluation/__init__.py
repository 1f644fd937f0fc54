"""How good scores are: tasks to be judged on, metrics, and baselines that any method must beat."""
