"""Stream processors side by side: the same topics, Redis and JSON, each as its own documentation shows it."""
