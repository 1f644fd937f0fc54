"""The embedded foundation: its weights, and how they were trained."""
