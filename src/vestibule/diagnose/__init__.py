"""From symptom to cause, by looking."""
