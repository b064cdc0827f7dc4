"""Where everything is put together: configuration is read once and the ports are filled."""
