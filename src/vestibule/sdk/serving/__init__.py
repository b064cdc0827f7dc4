"""What servers with library mTLS have in common: accepting, telling who calls, letting connections end in time."""
