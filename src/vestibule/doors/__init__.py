"""Every way in, in one folder: a door translates, asks one service, and answers."""
