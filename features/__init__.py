"""What Fraudline knows about an entity: events, the entity log, windows and the feature catalog."""
