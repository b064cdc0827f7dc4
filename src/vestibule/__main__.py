"""``python -m vestibule``: the same as the program ``vestibule``."""

from vestibule.app.main import main

main()
