"""`vestibule up`: a whole mesh on this machine, started, shown, proven and stopped."""
