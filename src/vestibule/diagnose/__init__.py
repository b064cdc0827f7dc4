"""From what is seen to what it means: failed calls, and endpoints looked at from outside."""
