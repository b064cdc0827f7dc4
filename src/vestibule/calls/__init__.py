"""Every way out: clients of other components, behind the ports that services declare."""
